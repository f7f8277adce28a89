//! The end of the live server's log. A moment can only be reached by a log that goes beyond it: with a
//! commit that is later, in the object store. A cluster where nobody writes has none by itself.

use std::time::Duration;

use anyhow::{bail, ensure};
use sqlx::PgConnection;
use time::OffsetDateTime;
use tokio::time::{sleep, timeout};

use crate::keeper::{archiving, config::KeeperConfig, server};

/// How far in the future a moment may be, in seconds: clocks differ.
const AHEAD: f64 = 5.0;
/// How long the archiving of the log may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often it is looked whether it is done.
const LOOK: Duration = Duration::from_millis(100);

/// Waits until the moment has passed, commits something later, and sees the log arrive in the object
/// store up to there.
///
/// # Errors
/// When the moment is in the future, or the log does not arrive.
pub async fn reach_beyond(
    config: &KeeperConfig,
    live: &mut PgConnection,
    moment: OffsetDateTime,
) -> anyhow::Result<()> {
    // Only functions of the server and its catalogs are used here: there is no schema to check a query
    // against.
    loop {
        let ahead: f64 = sqlx::query_scalar(
            "select extract(epoch from $1::timestamptz - clock_timestamp())::float8",
        )
        .bind(moment)
        .fetch_one(&mut *live)
        .await?;
        ensure!(ahead <= AHEAD, "the moment is {ahead:.0} s in the future of the server's clock");
        if ahead < 0.0 {
            break;
        }
        sleep(Duration::from_secs_f64(ahead) + Duration::from_millis(1)).await;
    }
    server::commit(live).await?;
    // Where something else has just begun a new segment, this is the one before.
    let segment: String =
        sqlx::query_scalar("select pg_walfile_name(pg_switch_wal())").fetch_one(&mut *live).await?;
    if let Ok(arrived) = timeout(PATIENCE, arrival(live, &segment)).await {
        return arrived;
    }
    let (mut again, waited) = (None, PATIENCE.as_secs());
    let problems = match archiving::look(config, &mut again).await {
        Ok((_, look)) => look.problems(config).join("; "),
        Err(error) => format!("the server does not answer: {error:#}"),
    };
    if problems.is_empty() {
        bail!(
            "the log was not archived within {waited} s: see what the server's pgbackrest \
             archive-push does"
        );
    }
    bail!("the log was not archived within {waited} s: {problems}")
}

/// Until a segment and those before it are in the object store.
async fn arrival(live: &mut PgConnection, segment: &str) -> anyhow::Result<()> {
    loop {
        let (archives, waits): (bool, bool) = sqlx::query_as(
            r#"select current_setting('archive_mode') <> 'off',
                   exists (select from pg_ls_archive_statusdir()
                           where name ~ '^[0-9A-F]{24}\.ready$'
                               and left(name, 24) <= $1 collate "C")"#,
        )
        .bind(segment)
        .fetch_one(&mut *live)
        .await?;
        ensure!(archives, "the server archives nothing: archive_mode is off");
        if !waits {
            return Ok(());
        }
        sleep(LOOK).await;
    }
}
