//! A keeper carries out restore orders: with a real cluster, a real repository and a provisioner that
//! only gives orders and hears of them.
#![allow(clippy::expect_used, clippy::panic, reason = "helpers of tests fail as tests do")]

#[path = "restores/cluster.rs"]
mod cluster;
#[path = "restores/provisioner.rs"]
mod provisioner;

use std::{path::PathBuf, sync::Arc, time::Duration};

use cluster::{ADMIN, Cluster, execute, fetch, ran_unprivileged};
use ops::{
    data_dir::DataDir,
    keeper::{
        Pgbackrest,
        restores::{self, Restores},
    },
};
use provisioner::Provisioner;
use provisioner_api::{
    backups::BACKGROUND,
    client::Client,
    restores::{RestoreOrder, RestoreProgress},
};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};
use time::OffsetDateTime;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// What a site's database has, as far as it matters here: things of all kinds, and more bytes than the
/// pipe between two programs holds.
const SITE: &[&str] = &[
    "create schema platform",
    "create table platform.site_authority (only_row boolean primary key default true check (only_row))",
    "create type role as enum ('student', 'admin')",
    "create function twice(n integer) returns integer language sql immutable as 'select 2 * n'",
    "create table ledger (n integer generated always as identity primary key,
         at timestamptz not null default clock_timestamp(), who role not null default 'student',
         doubled integer generated always as (twice(7)) stored)",
    "create index on ledger (at)",
    "create table filler as select n, sha512(n::text::bytea)::text as text
         from generate_series(1, 20000) n",
    "comment on table ledger is 'kept'",
    "create publication moving for all tables",
];

struct Story {
    cluster: Arc<Cluster>,
    pgbackrest: Arc<Pgbackrest>,
    client: Client,
    provisioner: Provisioner,
    keeper: JoinHandle<()>,
}

#[tokio::test]
async fn one_database_comes_back_as_it_was() {
    if ran_unprivileged("one_database_comes_back_as_it_was") {
        return;
    }
    let cluster = Cluster::start().await;
    let (a, b) = (name('a'), name('b'));
    for site in [&a, &b] {
        cluster.run("postgres", &[&format!("create database {site}")]).await;
        cluster.run(site, SITE).await;
    }
    let before = now(&cluster).await;
    cluster.back_up("full").await;
    let (provisioner, client) = Provisioner::start().await;
    let pgbackrest = Pgbackrest::new(&cluster.config).await.expect("pgBackRest");
    let mut story = Story {
        cluster: Arc::new(cluster),
        pgbackrest: Arc::new(pgbackrest),
        client,
        provisioner,
        keeper: tokio::spawn(async {}),
    };
    story.start_keeper();

    story.a_moment_comes_back(&a).await;
    story.what_cannot_be_is_said(&a, before).await;
    story.one_that_is_younger_than_the_backup_comes_back().await;
    // What follows has less log to replay.
    story.cluster.back_up("diff").await;
    story.others_are_not_there_meanwhile(&a, &b).await;
    story.a_killed_server_fails_the_order(&a).await;
    story.who_cancels_finds_nothing(&a).await;
    story.a_keeper_that_died_is_followed_by_one_that_ends_it(&a).await;
    story.a_provisioner_that_was_away_hears_of_it(&a).await;
    story.a_database_made_anew_is_filled_anew(&a).await;
}

fn name(digit: char) -> String {
    format!("s_{}", digit.to_string().repeat(32))
}

async fn now(cluster: &Cluster) -> OffsetDateTime {
    let mut connection = cluster.connect("postgres").await;
    let now = fetch(&mut connection, "select clock_timestamp()").await;
    connection.close().await.expect("closes");
    now
}

async fn write(cluster: &Cluster, site: &str, rows: usize) {
    cluster.run(site, &vec!["insert into ledger default values"; rows]).await;
}

impl Story {
    fn start_keeper(&mut self) {
        let (cluster, pgbackrest) = (Arc::clone(&self.cluster), Arc::clone(&self.pgbackrest));
        let client = self.client.clone();
        self.keeper = tokio::spawn(async move {
            let config = &cluster.config;
            restores::clear(config, |_| false).await;
            Restores { config, pgbackrest: &pgbackrest, client: &client }.work().await;
        });
    }

    /// As the provisioner does it: an empty database, then the order.
    async fn order(&self, database: &str, moment: OffsetDateTime) -> RestoreOrder {
        let into = format!("s_{}", Uuid::new_v4().simple());
        let owner = format!("{into}_owner");
        let make = [format!("create role {owner}"), self.make(&into)];
        self.cluster.run("postgres", &make.each_ref().map(String::as_str)).await;
        let order =
            RestoreOrder { id: Uuid::new_v4(), database: database.to_owned(), moment, into, owner };
        self.provisioner.give(&order);
        order
    }

    fn make(&self, into: &str) -> String {
        format!("create database {into} owner {into}_owner template template0")
    }

    async fn done(&self, order: &RestoreOrder) -> (Option<OffsetDateTime>, Vec<(String, u64)>) {
        let outcome = self.provisioner.outcome(order, 0).await;
        self.nothing_is_left(order).await;
        self.provisioner.take_back(order);
        match outcome {
            RestoreProgress::Done { last_commit_at, parts } => (last_commit_at, parts),
            other => panic!("{other:?}\n{}", self.cluster.log()),
        }
    }

    async fn failed(&self, order: &RestoreOrder) -> String {
        let outcome = self.provisioner.outcome(order, 0).await;
        self.nothing_is_left(order).await;
        self.provisioner.take_back(order);
        let mut into = self.cluster.connect(&order.into).await;
        let tables = "select count(*) from pg_class where relnamespace = 'public'::regnamespace";
        assert_eq!(fetch::<i64>(&mut into, tables).await, 0);
        match outcome {
            RestoreProgress::Failed { reason } => reason,
            other => panic!("{other:?}"),
        }
    }

    fn place(&self, order: &RestoreOrder) -> PathBuf {
        self.cluster.config.directory.join("restores").join(order.id.to_string())
    }

    fn sockets(&self, order: &RestoreOrder) -> PathBuf {
        DataDir::at(&self.place(order)).expect("a path").socket_directory()
    }

    async fn nothing_is_left(&self, order: &RestoreOrder) {
        assert!(!self.place(order).exists(), "files are left");
        assert!(!self.sockets(order).exists(), "sockets are left");
        let place = self.place(order).display().to_string();
        for process in std::fs::read_dir("/proc").expect("processes").flatten() {
            let of = process.path();
            let arguments = std::fs::read(of.join("cmdline")).unwrap_or_default();
            let works_in = std::fs::read_link(of.join("cwd")).unwrap_or_default();
            let traces = format!("{} {}", String::from_utf8_lossy(&arguments), works_in.display());
            assert!(!traces.contains(&place), "left: {traces}");
        }
        let mut live = self.cluster.connect("postgres").await;
        let sessions = format!(
            "select count(*) from pg_stat_activity
             where datname = '{}' and application_name = '{BACKGROUND}'",
            order.into
        );
        assert_eq!(fetch::<i64>(&mut live, &sessions).await, 0, "sessions are left");
    }

    /// The new database with a session that keeps the carrying waiting, and the order at that point.
    async fn held(&self, database: &str) -> (RestoreOrder, PgConnection) {
        let into = format!("s_{}", Uuid::new_v4().simple());
        let owner = format!("{into}_owner");
        let make = [format!("create role {owner}"), self.make(&into)];
        self.cluster.run("postgres", &make.each_ref().map(String::as_str)).await;
        let mut holder = self.cluster.connect(&into).await;
        execute(&mut holder, "begin; create schema platform").await;
        let moment = now(&self.cluster).await;
        let order =
            RestoreOrder { id: Uuid::new_v4(), database: database.to_owned(), moment, into, owner };
        self.provisioner.give(&order);
        self.until_it_waits(&order).await;
        (order, holder)
    }

    async fn until_it_waits(&self, order: &RestoreOrder) {
        let mut live = self.cluster.connect("postgres").await;
        let waits = format!(
            "select exists (select from pg_stat_activity where datname = '{}'
                 and application_name = '{BACKGROUND}' and wait_event_type = 'Lock')",
            order.into
        );
        let began = Instant::now();
        while !fetch::<bool>(&mut live, &waits).await {
            assert!(began.elapsed() < PATIENCE, "{:?}", self.provisioner.heard(order));
            sleep(PAUSE).await;
        }
    }

    fn scratch(&self, order: &RestoreOrder) -> Pid {
        let file = std::fs::read_to_string(self.place(order).join("data/postmaster.pid"));
        let pid = file.expect("a server").lines().next().expect("a line").parse().expect("an id");
        Pid::from_raw(pid).expect("an id")
    }

    async fn a_moment_comes_back(&self, a: &str) {
        write(&self.cluster, a, 50).await;
        let moment = now(&self.cluster).await;
        write(&self.cluster, a, 30).await;
        self.cluster.run(a, &["drop table filler"]).await;
        let order = self.order(a, moment).await;
        let (last, parts) = self.done(&order).await;
        assert!(last.expect("rows were written") <= moment);
        let names: Vec<_> = parts.iter().map(|(part, _)| part.as_str()).collect();
        assert_eq!(
            names,
            ["wait for the log", "restore the files", "replay the log", "carry it over", "tidy"]
        );
        eprintln!("{parts:?}");
        let mut then = self.cluster.connect(&order.into).await;
        assert_eq!(fetch::<i64>(&mut then, "select count(*) from ledger").await, 50);
        assert!(fetch::<OffsetDateTime>(&mut then, "select max(at) from ledger").await <= moment);
        assert_eq!(fetch::<i64>(&mut then, "select count(*) from filler").await, 20_000);
        assert_eq!(fetch::<i32>(&mut then, "select max(doubled) from ledger").await, 14);
        execute(&mut then, "insert into ledger default values").await;
        // A log says of sequences only what they surely have not come to.
        assert!(fetch::<i32>(&mut then, "select max(n) from ledger").await > 50);
        let others = format!(
            "select count(*) from pg_class where relnamespace in
                 ('public'::regnamespace, 'platform'::regnamespace)
             and relowner <> '{}'::regrole",
            order.owner
        );
        assert_eq!(fetch::<i64>(&mut then, &others).await, 0, "somebody else owns something");
        assert_eq!(fetch::<i64>(&mut then, "select count(*) from pg_publication").await, 0);
        let mut live = self.cluster.connect(a).await;
        assert_eq!(fetch::<i64>(&mut live, "select count(*) from ledger").await, 80);
        // So that the later ones have something to carry.
        execute(&mut live, SITE[6]).await;

        // Nobody writes any more, and the moment is now.
        let order = self.order(a, now(&self.cluster).await).await;
        let (_, parts) = self.done(&order).await;
        eprintln!("{parts:?}");
        let mut then = self.cluster.connect(&order.into).await;
        assert_eq!(fetch::<i64>(&mut then, "select count(*) from ledger").await, 80);
    }

    async fn what_cannot_be_is_said(&self, a: &str, before: OffsetDateTime) {
        let order = self.order(a, before).await;
        let reason = self.failed(&order).await;
        assert!(reason.contains("there is no backup from before"), "{reason}");
        let order = self.order(a, now(&self.cluster).await + Duration::from_secs(60)).await;
        let reason = self.failed(&order).await;
        assert!(reason.contains("in the future"), "{reason}");
        let order = self.order(&name('d'), now(&self.cluster).await).await;
        let reason = self.failed(&order).await;
        assert!(reason.contains("did not exist at that moment"), "{reason}");
        let order = self.order("postgres", now(&self.cluster).await).await;
        let reason = self.failed(&order).await;
        assert!(reason.contains("not the name of a site's database"), "{reason}");
    }

    async fn one_that_is_younger_than_the_backup_comes_back(&self) {
        let c = name('c');
        let moment = now(&self.cluster).await;
        self.cluster.run("postgres", &[&format!("create database {c} strategy wal_log")]).await;
        self.cluster.run(&c, SITE).await;
        let order = self.order(&c, moment).await;
        let reason = self.failed(&order).await;
        assert!(reason.contains("did not exist at that moment"), "{reason}");
        write(&self.cluster, &c, 5).await;
        let moment = now(&self.cluster).await;
        write(&self.cluster, &c, 5).await;
        let order = self.order(&c, moment).await;
        self.done(&order).await;
        let mut then = self.cluster.connect(&order.into).await;
        assert_eq!(fetch::<i64>(&mut then, "select count(*) from ledger").await, 5);
    }

    async fn others_are_not_there_meanwhile(&self, a: &str, b: &str) {
        let (order, mut holder) = self.held(a).await;
        let connect = async |database: &str| {
            let options = PgConnectOptions::new_without_pgpass();
            let options = options.socket(self.sockets(&order)).port(5432).username(ADMIN);
            PgConnection::connect_with(&options.database(database)).await
        };
        let mut scratch = connect(a).await.expect("connects");
        let (settings, wanted) = (
            "select concat_ws(' ', current_setting('archive_mode'), current_setting('fsync'),
                 current_setting('listen_addresses'), current_setting('max_replication_slots'))",
            "off off  77",
        );
        assert_eq!(fetch::<String>(&mut scratch, settings).await, wanted);
        assert_eq!(fetch::<i64>(&mut scratch, "select count(*) from ledger").await, 80);
        assert!(connect(b).await.is_err(), "another site's rows");
        let nice = |pid: Pid| {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
            let stat = stat.expect("it runs");
            let fields = stat.rsplit_once(')').expect("a name").1.split_whitespace();
            fields.clone().nth(16).map(str::to_owned)
        };
        assert_eq!(nice(self.scratch(&order)).as_deref(), Some("10"));
        drop(scratch);
        let began = Instant::now();
        let is_said = |progress: &RestoreProgress| matches!(progress, RestoreProgress::Working { far } if far.starts_with("carries it over ("));
        while !self.provisioner.heard(&order).iter().any(is_said) {
            assert!(began.elapsed() < PATIENCE, "{:?}", self.provisioner.heard(&order));
            sleep(PAUSE).await;
        }
        execute(&mut holder, "rollback").await;
        self.done(&order).await;
    }

    async fn a_killed_server_fails_the_order(&self, a: &str) {
        let (order, mut holder) = self.held(a).await;
        kill_process(self.scratch(&order), Signal::KILL).expect("killed");
        // So that the end of it is not the end of what was dumped.
        sleep(Duration::from_millis(200)).await;
        execute(&mut holder, "rollback").await;
        let reason = self.failed(&order).await;
        assert!(reason.contains("pg_dump"), "{reason}");
    }

    async fn who_cancels_finds_nothing(&self, a: &str) {
        let (order, mut holder) = self.held(a).await;
        // Two at once, and one that waits.
        let (other, mut other_holder) = self.held(a).await;
        let third = self.order(a, now(&self.cluster).await).await;
        sleep(Duration::from_millis(500)).await;
        assert!(self.provisioner.heard(&third).is_empty(), "three at once");
        for order in [&order, &other, &third] {
            self.provisioner.take_back(order);
        }
        let began = Instant::now();
        while self.place(&order).exists() || self.place(&other).exists() {
            assert!(began.elapsed() < PATIENCE, "it goes on");
            sleep(PAUSE).await;
        }
        let mut live = self.cluster.connect("postgres").await;
        let sessions = format!(
            "select count(*) from pg_stat_activity where application_name = '{BACKGROUND}'"
        );
        while fetch::<i64>(&mut live, &sessions).await > 0 {
            assert!(began.elapsed() < PATIENCE, "sessions go on");
            sleep(PAUSE).await;
        }
        for order in [&order, &other, &third] {
            self.nothing_is_left(order).await;
        }
        // In the middle of the files.
        let order = self.order(a, now(&self.cluster).await).await;
        while !self.place(&order).join("data").exists() {
            assert!(began.elapsed() < PATIENCE, "it does not begin");
            sleep(PAUSE).await;
        }
        self.provisioner.take_back(&order);
        while self.place(&order).exists() {
            assert!(began.elapsed() < PATIENCE, "it goes on");
            sleep(PAUSE).await;
        }
        self.nothing_is_left(&order).await;
        execute(&mut holder, "rollback").await;
        execute(&mut other_holder, "rollback").await;
    }

    async fn a_keeper_that_died_is_followed_by_one_that_ends_it(&mut self, a: &str) {
        let (order, mut holder) = self.held(a).await;
        let scratch = self.scratch(&order);
        self.keeper.abort();
        let _ = (&mut self.keeper).await;
        assert!(self.place(&order).exists(), "nobody removed it");
        self.start_keeper();
        let began = Instant::now();
        while self.place(&order).join("data/postmaster.pid").exists()
            && self.scratch(&order) == scratch
        {
            assert!(began.elapsed() < PATIENCE, "the old server goes on");
            sleep(PAUSE).await;
        }
        execute(&mut holder, "rollback").await;
        self.done(&order).await;
        let mut then = self.cluster.connect(&order.into).await;
        assert_eq!(fetch::<i64>(&mut then, "select count(*) from ledger").await, 80);
    }

    async fn a_provisioner_that_was_away_hears_of_it(&mut self, a: &str) {
        let order = self.order(a, now(&self.cluster).await).await;
        let first = self.provisioner.outcome(&order, 0).await;
        let again = self.provisioner.outcome(&order, 1).await;
        assert_eq!(first, again, "it is told while the order is listed");
        // Nothing is known any more but what is in the database.
        self.keeper.abort();
        let _ = (&mut self.keeper).await;
        let told = self.provisioner.heard(&order).len();
        self.provisioner.break_down(true);
        self.start_keeper();
        sleep(Duration::from_millis(300)).await;
        assert_eq!(self.provisioner.heard(&order).len(), told);
        self.provisioner.break_down(false);
        let began = Instant::now();
        let nothing = RestoreProgress::Done { last_commit_at: None, parts: Vec::new() };
        while !self.provisioner.heard(&order).contains(&nothing) {
            assert!(began.elapsed() < PATIENCE, "{:?}", self.provisioner.heard(&order));
            sleep(PAUSE).await;
        }
        self.provisioner.take_back(&order);
        self.nothing_is_left(&order).await;
    }

    /// An outcome of before is not told of a database that is empty now.
    async fn a_database_made_anew_is_filled_anew(&self, a: &str) {
        let order = self.order(a, now(&self.cluster).await).await;
        self.provisioner.outcome(&order, 0).await;
        let again = [format!("drop database {} with (force)", order.into), self.make(&order.into)];
        self.cluster.run("postgres", &again.each_ref().map(String::as_str)).await;
        let told = self.provisioner.heard(&order).len();
        let began = Instant::now();
        loop {
            let heard = self.provisioner.heard(&order);
            let since = heard.get(told..).unwrap_or_default();
            let is_new =
                |progress: &RestoreProgress| matches!(progress, RestoreProgress::Working { .. });
            if since.iter().any(is_new) {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{since:?}");
            sleep(PAUSE).await;
        }
        let mut then;
        loop {
            then = self.cluster.connect(&order.into).await;
            let is_there = "select exists (select from pg_namespace where nspname = 'platform')";
            if fetch::<bool>(&mut then, is_there).await {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{:?}", self.provisioner.heard(&order));
            sleep(PAUSE).await;
        }
        assert_eq!(fetch::<i64>(&mut then, "select count(*) from ledger").await, 80);
        while self.place(&order).exists() {
            assert!(began.elapsed() < PATIENCE, "{:?}", self.provisioner.heard(&order));
            sleep(PAUSE).await;
        }
        self.provisioner.take_back(&order);
    }
}
