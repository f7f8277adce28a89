//! A site's database on its way from one real server to another: copied, compared, fenced, opened, and
//! followed back.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use control_types::{Generation, SiteId};
use provisioner::{
    secrets::{PlacementSecrets, ScramVerifier},
    site_database::{
        Attempt, Authority, Beginning, Comparison, Limits, Opened, Reading, Rights,
        SiteDatabaseName, SiteDatabases,
    },
};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

mod parts {
    #[allow(dead_code, reason = "each test file uses its own part of it")]
    pub mod postgres;
}
use parts::postgres::{Server, close, code, execute, fetch};

const HBA: &str = "local sameuser all scram-sha-256\nlocal all +ta3lem_mover scram-sha-256";
const SETTINGS: &str = "wal_level = logical\nmax_replication_slots = 16\nmax_wal_senders = 16\n\
    max_logical_replication_workers = 12\nmax_worker_processes = 20\n\
    max_sync_workers_per_subscription = 4\nautovacuum = off";
/// How long something may take that a server does by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// Nobody else is there.
const AT_ONCE: Reading = Reading { rest: 0.0, progress: &|_| () };

/// One of a site's two places.
struct Place {
    server: Server,
    cluster: SiteDatabases,
    name: SiteDatabaseName,
    secrets: PlacementSecrets,
}

impl Place {
    async fn new(cluster: &str) -> Self {
        let server = Server::start(HBA, SETTINGS);
        let cluster = SiteDatabases::new(cluster, &server.admin_url()).expect("a URL");
        Self {
            server,
            cluster,
            name: SiteDatabaseName::of_placement(Uuid::now_v7()),
            secrets: PlacementSecrets::generate().expect("random bytes"),
        }
    }

    async fn make(&self, rights: Rights) {
        let verifier = ScramVerifier::of_password(&self.secrets.database_password);
        let verifier = verifier.expect("random bytes");
        let template = self.cluster.ensure_template().await.expect("a template");
        self.cluster.ensure_roles(&self.name, &verifier, 7, rights).await.expect("roles");
        self.cluster.create_database(&self.name, &template).await.expect("a database");
    }

    async fn admin(&self) -> PgConnection {
        self.server.admin(self.name.as_str()).await
    }

    async fn app(&self) -> PgConnection {
        let password = &self.secrets.database_password;
        let login = self.server.login(self.name.login(), password, self.name.as_str()).await;
        login.expect("the app connects")
    }

    async fn run(&self, sql: &str) {
        let mut admin = self.admin().await;
        execute(&mut admin, sql).await.expect(sql);
        close(admin).await;
    }
}

/// A site of some content at the source, and a target that follows it.
struct Moving {
    source: Place,
    target: Place,
}

const SUBJECTS: &str = "insert into audit_event (action, detail)
    select 'test.row', jsonb_build_object('n', n, 'text', repeat('x', 20))
    from generate_series(1, 500) n";

impl Moving {
    async fn begin() -> Self {
        let (source, target) = tokio::join!(Place::new("jakarta-1"), Place::new("singapore-1"));
        tokio::join!(source.make(Rights::Write), target.make(Rights::Read));
        let site = SiteId::generate();
        let limits = Limits {
            plan: "starter".to_owned(),
            max_students: None,
            max_instructors: None,
            max_courses: None,
            storage_bytes: None,
            max_upload_bytes: 1 << 20,
        };
        let authority = |generation, cluster: &str| Authority {
            site_id: site,
            generation: Generation(generation),
            cluster: cluster.to_owned(),
        };
        let seed = json!({ "name": "Acme", "default_language": "id", "accounts": [] });
        let primary = authority(1, "jakarta-1");
        let seeded = source.cluster.seed(&source.name, &primary, &limits, &seed).await;
        seeded.expect("fills");
        let standby = authority(2, "singapore-1");
        for _ in 0..2 {
            let prepared = target.cluster.prepare_standby(&target.name, &standby, &limits);
            prepared.await.expect("stands by");
        }
        let mut app = source.app().await;
        execute(&mut app, SUBJECTS).await.expect("writes");
        close(app).await;
        Self { source, target }
    }

    async fn follow(&self) {
        let (source, target) = (&self.source, &self.target);
        for _ in 0..2 {
            let address = source.cluster.address();
            let mover = source.cluster.publish(&source.name, address).await.expect("publishes");
            let mover = mover.expect("random bytes");
            source.cluster.ensure_slot(&source.name, &target.name).await.expect("a slot");
            let beginning = Beginning::Copy;
            target.cluster.subscribe(&target.name, &mover, beginning).await.expect("follows");
        }
        self.until("all is copied", async || {
            target.cluster.copy_status(&target.name).await.expect("tells").is_complete()
        })
        .await;
    }

    async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let waited = tokio::time::timeout(PATIENCE, async {
            // Servers do this by themselves and tell nobody.
            while !holds().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(waited.await.is_ok(), "{what}: not in time\n{}", self.target.server.log());
    }

    async fn compare(&self) -> Comparison {
        let (source, target) = (&self.source, &self.target);
        let compared =
            source.cluster.compare(&source.name, &target.cluster, &target.name, &AT_ONCE).await;
        compared.expect("compares").expect("there is a moment for it")
    }

    async fn arm(&self, number: i64) -> Attempt {
        let (source, target) = (&self.source, &self.target);
        let region = "sg-singapore".to_owned();
        let attempt = Attempt { generation: Generation(2), region, number };
        assert!(target.cluster.stand_by(&target.name, &attempt).await.expect("answers"));
        assert!(source.cluster.arm(&source.name, Generation(1), &attempt).await.expect("answers"));
        attempt
    }
}

async fn rows(connection: &mut PgConnection) -> i64 {
    fetch(connection, "select count(*) from audit_event").await
}

async fn note(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    execute(connection, "insert into audit_event (action) values ('test.note')").await
}

#[tokio::test]
async fn a_site_goes_over_and_comes_back() {
    let moving = Moving::begin().await;
    let (source, target) = (&moving.source, &moving.target);
    moving.follow().await;
    let compared = moving.compare().await;
    assert_eq!(compared.differences, []);
    assert!(compared.tables > 10 && compared.rows >= 501 && compared.definitions > 100);

    // The way back is ready before.
    let address = target.cluster.address();
    let mover = target.cluster.publish(&target.name, address).await.expect("publishes");
    target.cluster.ensure_slot(&target.name, &source.name).await.expect("a slot");
    let mover = mover.expect("random bytes");
    let later = Beginning::Later;
    source.cluster.subscribe(&source.name, &mover, later).await.expect("will follow");

    let attempt = moving.arm(1).await;
    let mut app = source.app().await;
    let mut there = target.app().await;
    note(&mut app).await.expect("the source is written");
    assert_eq!(code(note(&mut there).await), "42501", "the target is not");
    let mut fence = source.cluster.switch(&source.name).await.expect("connects");
    let mut open = target.cluster.switch(&target.name).await.expect("connects");
    let fenced = fence.fence(Generation(1), &attempt).await.expect("fences");
    let fenced = fenced.expect("nobody is in the way");
    assert_eq!(code(note(&mut app).await), "42501", "a session that was there");
    let before = rows(&mut app).await;
    for _ in 0..2 {
        let opened = open.open(&attempt, &fenced.sequences, PATIENCE).await.expect("opens");
        assert!(matches!(opened, Opened::Primary { .. }), "{opened:?}");
    }
    note(&mut there).await.expect("the target is written");
    assert_eq!(rows(&mut there).await, before + 1);
    assert!(!target.cluster.abort(&target.name, &attempt).await.expect("answers"), "too late");
    source.cluster.retire(&source.name, &attempt).await.expect("retires");
    let left = source.cluster.authority(&source.name).await.expect("tells");
    assert_eq!(left.state, "retired");
    assert_eq!(left.moving_to.as_deref(), Some("2 sg-singapore 1"));

    // The other way round.
    let opened = target.cluster.authority(&target.name).await.expect("tells");
    let open_lsn = opened.open_lsn.expect("was opened");
    target.cluster.unsubscribe(&target.name).await.expect("stops");
    source.cluster.unpublish(&source.name).await.expect("stops");
    assert_eq!(source.cluster.slots(&source.name).await.expect("lists"), Vec::<String>::new());
    source.cluster.follow_from(&source.name, &open_lsn).await.expect("follows");
    note(&mut there).await.expect("the target is written");
    let expected = rows(&mut there).await;
    let mut old = source.admin().await;
    moving.until("the source follows", async || rows(&mut old).await == expected).await;
    let back = target.cluster.compare(&target.name, &source.cluster, &source.name, &AT_ONCE).await;
    assert_eq!(back.expect("compares").expect("has a moment").differences, []);

    // An attempt to come back that is given up before the old home has heard of it: that comes too late.
    let attempt =
        |number| Attempt { generation: Generation(3), region: "id-jakarta".to_owned(), number };
    assert!(source.cluster.abort(&source.name, &attempt(2)).await.expect("answers"));
    assert!(!source.cluster.stand_by(&source.name, &attempt(2)).await.expect("answers"));
    assert!(source.cluster.stand_by(&source.name, &attempt(3)).await.expect("answers"));
    for connection in [app, there, old] {
        close(connection).await;
    }
}

/// A connection that is lost between the drop of a copy's slot and the note that the table is done leaves
/// a table that Postgres never finishes.
#[tokio::test]
async fn a_copy_whose_slot_is_lost_begins_anew() {
    let moving = Moving::begin().await;
    let (source, target) = (&moving.source, &moving.target);
    moving.follow().await;
    let leader = (&source.cluster, &source.name);
    let repair = async || target.cluster.repair_copy(&target.name, leader).await.expect("repairs");
    assert_eq!(repair().await, Vec::<String>::new(), "nothing is lost");

    // Another copy of one table, which is held where it has all rows and waits for the stream.
    let mut admin = target.admin().await;
    let stream: String = fetch(&mut admin, "select subname::text from pg_subscription").await;
    let refresh = format!("alter subscription {stream} refresh publication");
    source.run("alter publication site_move drop table audit_event").await;
    target.run(&refresh).await;
    execute(&mut admin, "delete from audit_event").await.expect("empties");
    let applies: i32 = fetch(&mut admin, "select pid from pg_stat_subscription").await;
    execute(&mut admin, "begin; lock table audit_event in share mode").await.expect("locks");
    source.run("alter publication site_move add table audit_event").await;
    target.run(&refresh).await;
    const COPIES: &str = "select coalesce(max(pid), 0) from pg_stat_subscription
        where relid = 'audit_event'::regclass";
    let mut watch = target.admin().await;
    moving.until("it is copied", async || fetch::<i32>(&mut watch, COPIES).await > 0).await;
    let copies: i32 = fetch(&mut watch, COPIES).await;
    let stops = rustix::process::Pid::from_raw(applies).expect("a process");
    rustix::process::kill_process(stops, rustix::process::Signal::STOP).expect("stops");
    execute(&mut admin, "commit").await.expect("unlocks");
    const COPIED: &str = "select srsubstate = 'f' from pg_subscription_rel
        where srrelid = 'audit_event'::regclass";
    moving.until("it has all rows", async || fetch::<bool>(&mut watch, COPIED).await).await;
    assert_eq!(repair().await, Vec::<String>::new(), "somebody works on it");

    // Its end, and that of its slot.
    execute(&mut admin, &format!("select pg_terminate_backend({copies}, 5000)"))
        .await
        .expect("ends");
    assert_eq!(repair().await, Vec::<String>::new(), "its slot is there");
    source
        .run(
            "select pg_terminate_backend(active_pid, 5000) from pg_replication_slots
             where slot_name like 'pg_%_sync_%' and active;
             select pg_drop_replication_slot(slot_name) from pg_replication_slots
             where slot_name like 'pg_%_sync_%'",
        )
        .await;
    rustix::process::kill_process(stops, rustix::process::Signal::CONT).expect("goes on");
    let mut app = source.app().await;
    note(&mut app).await.expect("writes what only the lost slot had");
    // Whoever did the first half of it before was killed then.
    source.run("alter publication site_move drop table audit_event").await;
    moving.until("it begins anew", async || repair().await == ["public.audit_event"]).await;
    moving
        .until("all is copied", async || {
            target.cluster.copy_status(&target.name).await.expect("tells").is_complete()
        })
        .await;
    assert_eq!(repair().await, Vec::<String>::new());
    note(&mut app).await.expect("writes");
    assert_eq!(moving.compare().await.differences, []);
    for connection in [admin, watch, app] {
        close(connection).await;
    }
}

#[tokio::test]
async fn an_attempt_that_is_given_up_leaves_the_source_as_it_was() {
    let moving = Moving::begin().await;
    let (source, target) = (&moving.source, &moving.target);
    moving.follow().await;
    let first = moving.arm(1).await;
    let mut fence = source.cluster.switch(&source.name).await.expect("connects");
    let fenced = fence.fence(Generation(1), &first).await.expect("fences").expect("fences");
    let mut app = source.app().await;
    assert_eq!(code(note(&mut app).await), "42501");
    assert!(target.cluster.abort(&target.name, &first).await.expect("answers"));
    source.cluster.unfence(&source.name, Generation(1), &first).await.expect("opens");
    note(&mut app).await.expect("is written again");

    // Whoever comes late with the same number changes nothing.
    let late = first.clone();
    assert!(!target.cluster.stand_by(&target.name, &late).await.expect("answers"));
    assert!(!source.cluster.arm(&source.name, Generation(1), &late).await.expect("answers"));
    let refused = fence.fence(Generation(1), &late).await.expect_err("is not armed");
    assert!(format!("{refused:?}").contains("another attempt"), "{refused:?}");
    let mut open = target.cluster.switch(&target.name).await.expect("connects");
    let opened = open.open(&late, &fenced.sequences, PATIENCE).await.expect("answers");
    assert_eq!(opened, Opened::GivenUp);
    note(&mut app).await.expect("is still written");

    // A transaction that does not end holds the fence up until it is ended.
    let second = moving.arm(2).await;
    execute(&mut app, "begin").await.expect("begins");
    note(&mut app).await.expect("writes");
    let fenced = fence.fence(Generation(1), &second).await.expect("waits");
    assert_eq!(fenced, None);
    assert_eq!(source.cluster.end_transactions(&source.name).await.expect("ends"), 1);
    let fenced = fence.fence(Generation(1), &second).await.expect("fences").expect("fences");
    assert!(execute(&mut app, "commit").await.is_err(), "its session was ended");
    let opened = open.open(&second, &fenced.sequences, PATIENCE).await.expect("opens");
    assert!(matches!(opened, Opened::Primary { .. }), "{opened:?}");
    source.cluster.unfence(&source.name, Generation(1), &first).await.expect("does nothing");
    let state = source.cluster.authority(&source.name).await.expect("tells").state;
    assert_eq!(state, "fenced", "a late un-fence of the first attempt");
}

/// What can be wrong with the rows of a copy, and how it is put right again.
const WRONG_ROWS: [(&str, &str, &str); 4] = [
    (
        "a missing row",
        "create table kept as select * from audit_event limit 1;
         delete from audit_event where id = (select id from kept)",
        "insert into audit_event select * from kept; drop table kept",
    ),
    (
        "a changed byte",
        "update audit_event set request_id = 'x' where detail ->> 'n' = '7'",
        "update audit_event set request_id = '' where detail ->> 'n' = '7'",
    ),
    ("two rows whose values were exchanged", EXCHANGE, EXCHANGE),
    (
        "an extra row",
        "insert into audit_event (id, action)
         values ('00000000-0000-0000-0000-000000000001', 'test.extra')",
        "delete from audit_event where action = 'test.extra'",
    ),
];
const EXCHANGE: &str = "update audit_event set detail = detail
        || jsonb_build_object('n', case detail ->> 'n' when '1' then 2 else 1 end)
    where detail ->> 'n' in ('1', '2')";

/// What can be wrong with everything else. `RW` and `LOGIN` stand for the target's roles.
const WRONG_SHAPES: [(&str, &str, &str); 8] = [
    (
        "a missing index",
        "drop index audit_event_by_time",
        "create index audit_event_by_time on audit_event using btree (at desc)",
    ),
    (
        "a constraint that does not hold",
        "alter table audit_event drop constraint audit_event_action_check",
        "alter table audit_event add constraint audit_event_action_check
             check (action ~ '^[a-z_]+\\.[a-z_]+$')",
    ),
    ("a lost grant", "revoke insert on audit_event from RW", "grant insert on audit_event to RW"),
    (
        "a grant too many",
        "grant select on audit_event to public",
        "revoke select on audit_event from public",
    ),
    (
        "a trigger that does not fire",
        "alter table file disable trigger file_keeps_blob",
        "alter table file enable trigger file_keeps_blob",
    ),
    (
        "another default",
        "alter table audit_event alter column request_id set default 'x'",
        "alter table audit_event alter column request_id set default ''",
    ),
    (
        "another order of texts",
        "alter table account alter column city type text collate \"POSIX\"",
        "alter table account alter column city type text collate \"default\"",
    ),
    (
        "another setting",
        "alter role LOGIN set statement_timeout = '1s'",
        "alter role LOGIN set statement_timeout = '60s'",
    ),
];

#[tokio::test]
async fn a_difference_of_any_kind_is_found() {
    let moving = Moving::begin().await;
    moving.follow().await;
    assert_eq!(moving.compare().await.differences, []);
    let name = &moving.target.name;
    let of_target = |sql: &str| sql.replace("RW", &name.rw()).replace("LOGIN", name.login());
    for (what, harm, repair) in WRONG_ROWS.into_iter().chain(WRONG_SHAPES) {
        moving.target.run(&of_target(harm)).await;
        let compared = moving.compare().await;
        assert!(!compared.differences.is_empty(), "{what} was not found");
        moving.target.run(&of_target(repair)).await;
        let compared = moving.compare().await;
        assert_eq!(compared.differences, [], "after {what}");
    }
}

#[tokio::test]
async fn a_copy_leaves_time_to_others_and_leaves_nothing_behind() {
    let moving = Moving::begin().await;
    let (source, target) = (&moving.source, &moving.target);
    source
        .run(
            "insert into audit_event (action, detail)
             select 'test.row', jsonb_build_object('text', repeat(md5(n::text), 10))
             from generate_series(1, 40000) n",
        )
        .await;
    let large = source.cluster.large_tables(&source.name).await.expect("tells");
    assert_eq!(large, ["audit_event"]);
    for _ in 0..2 {
        target.cluster.pace_copy(&target.name, &large, 3.0).await.expect("slows it down");
    }
    let resting = async {
        let mut admin = target.admin().await;
        moving
            .until("the copy rests", async || {
                fetch::<bool>(
                    &mut admin,
                    "select exists (select from pg_stat_activity where wait_event = 'PgSleep'
                         and backend_type = 'logical replication worker')",
                )
                .await
            })
            .await;
        close(admin).await;
    };
    tokio::join!(moving.follow(), resting);
    target.cluster.end_pace(&target.name).await.expect("stops that");
    assert_eq!(moving.compare().await.differences, []);
    // What comes later is not slowed down by anything.
    let mut admin = target.admin().await;
    let left = "select count(*) from pg_trigger where tgname like '%pace%'";
    assert_eq!(fetch::<i64>(&mut admin, left).await, 0);
    close(admin).await;
}

#[tokio::test]
async fn a_cluster_says_what_is_free_on_its_disk() {
    let place = Place::new("jakarta-1").await;
    let said = place.cluster.free_disk().await.expect("answers").expect("its superuser may know");
    let disk = rustix::fs::statvfs(place.server.path()).expect("a disk");
    let free = disk.f_bavail * disk.f_frsize;
    assert!(said.abs_diff(free) < free / 10, "says {said} bytes, {free} are free");
}
