//! Backups make themselves: every cluster has base backups and its log in the object store of its own
//! region, and any moment of one site's database can be brought back from there.

use std::{
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use provisioner_api::{
    backups::{BackupKind, ClusterBackups, PutKeeper},
    client::Client,
};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tests::{Stack, stack::Start};
use time::{OffsetDateTime, UtcOffset, macros::format_description};

const REGION: &str = "id-jakarta";
const CLUSTER: &str = "jakarta-1";
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(100);

pub async fn make_themselves_and_hold_every_moment() -> Result<()> {
    let start = Start { demo: true, ..Start::default() };
    let stack = tokio::task::spawn_blocking(|| Stack::start(start)).await??;
    for cluster in [CLUSTER, "singapore-1"] {
        let backups = wait_for(&stack, cluster, "complete", |b| b.problem.is_none()).await?;
        let report = backups.report.context("a report")?;
        let first = report.backups.first().context("a backup")?;
        ensure!(first.kind == BackupKind::Full && first.stored_bytes < first.bytes, "{first:?}");
    }
    tokens_open_their_own_calls_only(&stack).await?;
    what_stops_archiving_is_named(&stack).await?;
    a_killed_keeper_comes_back(&stack).await?;
    a_moment_is_brought_back(&stack).await?;
    tokio::task::spawn_blocking(|| stack.stop()).await??;
    Ok(())
}

/// The backups of a cluster, as soon as they are so.
async fn wait_for(
    stack: &Stack,
    cluster: &str,
    what: &str,
    is_so: impl Fn(&ClusterBackups) -> bool,
) -> Result<ClusterBackups> {
    let api = stack.api()?;
    let began = Instant::now();
    loop {
        let all = api.backups().await?;
        let found = all.into_iter().find(|backups| backups.cluster == cluster);
        let found = found.with_context(|| format!("no cluster {cluster}"))?;
        if is_so(&found) {
            return Ok(found);
        }
        ensure!(began.elapsed() < PATIENCE, "the backups are not {what}: {found:?}");
        tokio::time::sleep(PAUSE).await;
    }
}

async fn tokens_open_their_own_calls_only(stack: &Stack) -> Result<()> {
    let token = std::fs::read_to_string(stack.data_dir().join("secrets/keeper-id-jakarta"))?;
    let keeper = Client::new(&stack.ready.api.url, token.trim())?;
    ensure!(keeper.keeper_settings().await?.cluster == CLUSTER, "another cluster's settings");
    let status = |error: provisioner_api::client::ClientError| {
        error.problem().map(|problem| (problem.status, problem.field.clone()))
    };
    ensure!(keeper.sites().await.map_err(status) == Err(Some((401, None))), "a keeper lists sites");
    let operator = stack.api()?;
    let settings = operator.keeper_settings().await.map(drop).map_err(status);
    ensure!(settings == Err(Some((401, None))), "an operator reads a keeper's secrets");
    let short = PutKeeper { token: "guess me".to_owned() };
    let put = operator.put_keeper(CLUSTER, &short).await.map(drop).map_err(status);
    ensure!(put == Err(Some((422, Some("token".to_owned())))), "a short token: {put:?}");
    let said = stack.cli(&["backup", "status"])?.ok()?.stdout;
    ensure!(said.contains(CLUSTER) && said.contains("full"), "{said}");
    Ok(())
}

async fn what_stops_archiving_is_named(stack: &Stack) -> Result<()> {
    let mut server = connect(stack, "postgres").await?;
    server.execute("alter system set archive_command = 'false'").await?;
    server.execute("select pg_reload_conf()").await?;
    wait_for(stack, CLUSTER, "broken", |backups| {
        backups.problem.as_ref().is_some_and(|problem| problem.contains("set archive_command to"))
    })
    .await?;
    server.execute("select pg_logical_emit_message(false, 'test', 'x'), pg_switch_wal()").await?;
    wait_for(stack, CLUSTER, "behind", |backups| {
        backups.problem.as_ref().is_some_and(|problem| problem.contains("cannot be archived"))
    })
    .await?;
    server.execute("alter system reset archive_command").await?;
    server.execute("select pg_reload_conf()").await?;
    wait_for(stack, CLUSTER, "complete again", |backups| backups.problem.is_none()).await?;
    Ok(())
}

async fn a_killed_keeper_comes_back(stack: &Stack) -> Result<()> {
    let component = format!("keeper-{REGION}");
    let before = stack.process(&component)?;
    let killed_at = OffsetDateTime::now_utc();
    kill_process(Pid::from_raw(before).context("no process")?, Signal::KILL)?;
    wait_for(stack, CLUSTER, "reported again", |backups| {
        backups.report.as_ref().is_some_and(|report| report.at > killed_at)
    })
    .await?;
    ensure!(stack.process(&component)? != before, "the same process");
    Ok(())
}

async fn connect(stack: &Stack, database: &str) -> Result<PgConnection> {
    Ok(PgConnection::connect(&stack.admin_url(REGION, database)?).await?)
}

/// A site's rows as they were at a moment, while the site goes on without them.
async fn a_moment_is_brought_back(stack: &Stack) -> Result<()> {
    let sites = stack.api()?.sites().await?.into_iter();
    let mut places = sites.filter_map(|site| site.placement);
    let place = places.find(|place| place.cluster == CLUSTER);
    let database = place.context("no site in the region")?.database;
    let mut site = connect(stack, &database).await?;
    site.execute("create table ledger (n int primary key, at timestamptz not null)").await?;
    write(&mut site, 0..50).await?;
    let moment = now(&mut site).await?;
    write(&mut site, 50..100).await?;
    site.execute("truncate ledger").await?;
    let until = now(&mut site).await?;
    site.execute("select pg_switch_wal()").await?;
    wait_for(stack, CLUSTER, "up to the moment", |backups| {
        let report = backups.report.as_ref();
        report.and_then(|report| report.recoverable_until).is_some_and(|at| at > until)
    })
    .await?;
    let restored = Restored::start(stack, &database, moment)?;
    let mut then = restored.connect(stack, &database).await?;
    let (rows, last): (i64, OffsetDateTime) =
        sqlx::query_as("select count(*), max(at) from ledger").fetch_one(&mut then).await?;
    ensure!(rows == 50 && last <= moment, "{rows} rows until {last}, {moment} was asked for");
    then.close().await?;
    let rows: i64 = sqlx::query_scalar("select count(*) from ledger").fetch_one(&mut site).await?;
    ensure!(rows == 0, "the live site changed");
    site.execute("drop table ledger").await?;
    Ok(())
}

async fn write(site: &mut PgConnection, numbers: std::ops::Range<i32>) -> Result<()> {
    for n in numbers {
        let insert = format!("insert into ledger values ({n}, clock_timestamp())");
        site.execute(AssertSqlSafe(insert)).await?;
    }
    Ok(())
}

async fn now(site: &mut PgConnection) -> Result<OffsetDateTime> {
    Ok(sqlx::query_scalar("select clock_timestamp()").fetch_one(site).await?)
}

/// A server with one database of a cluster as it was at a moment.
struct Restored {
    _directory: tempfile::TempDir,
    sockets: PathBuf,
    server: Child,
}

impl Restored {
    fn start(stack: &Stack, database: &str, moment: OffsetDateTime) -> Result<Self> {
        let keeper = stack.data_dir().join("keepers").join(REGION);
        let owner = std::fs::metadata(&keeper)?;
        let directory = tempfile::Builder::new().prefix("ta3lem-e2e-").tempdir_in("/tmp")?;
        std::os::unix::fs::chown(directory.path(), Some(owner.uid()), Some(owner.gid()))?;
        let data = directory.path().join("data");
        let as_owner = |program: &Path| {
            let mut command = Command::new(program);
            command.uid(owner.uid()).gid(owner.gid()).current_dir("/").stdin(Stdio::null());
            command
        };
        let format = format_description!(
            "[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:6]+00"
        );
        let moment = moment.to_offset(UtcOffset::UTC).format(format)?;
        let restore = as_owner("pgbackrest".as_ref())
            .arg(format!("--config={}", keeper.join("pgbackrest.conf").display()))
            .arg("--stanza=s")
            .arg(format!("--pg1-path={}", data.display()))
            .arg(format!("--lock-path={}", directory.path().join("lock").display()))
            .arg(format!("--db-include={database}"))
            .arg("--type=time")
            .arg(format!("--target={moment}"))
            .args(["--target-action=promote", "--archive-mode=off", "restore"])
            .output()?;
        let said = [restore.stdout, restore.stderr].concat();
        ensure!(restore.status.success(), "restore: {}", String::from_utf8_lossy(&said));
        let config = stack.data_dir().join("clusters").join(REGION).join("postmaster.opts");
        let command = std::fs::read_to_string(config)?;
        let postgres = command.split_whitespace().next().context("no program")?;
        let sockets = directory.path().to_owned();
        let server = as_owner(postgres.as_ref())
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(&sockets)
            .args(["-c", &format!("config_file={}", data.join("ta3lem.conf").display())])
            .args(["-c", "archive_mode=off", "-c", "max_logical_replication_workers=0"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { _directory: directory, sockets, server })
    }

    /// As soon as the moment is reached.
    async fn connect(&self, stack: &Stack, database: &str) -> Result<PgConnection> {
        let options: sqlx::postgres::PgConnectOptions =
            stack.admin_url(REGION, database)?.parse()?;
        let options = options.socket(&self.sockets);
        let began = Instant::now();
        loop {
            if let Ok(mut connection) = PgConnection::connect_with(&options).await
                && let Ok(false) = sqlx::query_scalar("select pg_is_in_recovery()")
                    .fetch_one(&mut connection)
                    .await
            {
                return Ok(connection);
            }
            if began.elapsed() > PATIENCE {
                bail!("the restored server does not get to the moment");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        if let Some(process) = i32::try_from(self.server.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(process, Signal::QUIT);
        }
        let _ = self.server.wait();
    }
}
