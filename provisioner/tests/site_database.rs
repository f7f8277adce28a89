//! The databases of sites on a real server: made, isolated, fenced, dropped, and made again after
//! any failure.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Instant;

use control_types::{Generation, SiteId};
use provisioner::{
    secrets::{PlacementSecrets, ScramVerifier},
    site_database::{
        Authority, Exhausted, Limits, Rights, SiteDatabaseError, SiteDatabaseName, SiteDatabases,
    },
};
use serde_json::{Value, json};
use sqlx::PgConnection;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use uuid::Uuid;

mod parts {
    #[allow(dead_code, reason = "each test file uses its own part of it")]
    pub mod postgres;
}
use parts::postgres::{ANY_DATABASE, SAME_USER, Server, close, code, execute, fetch};

/// What is never to be seen in a log.
const PASSWORD_HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$aGFzaGhhc2hoYXNo";
const EMAIL: &str = "siti@acme.test";

struct Site {
    id: SiteId,
    name: SiteDatabaseName,
    secrets: PlacementSecrets,
}

impl Site {
    fn new() -> Self {
        Self {
            id: SiteId::generate(),
            name: SiteDatabaseName::of_placement(Uuid::now_v7()),
            secrets: PlacementSecrets::generate().expect("random bytes"),
        }
    }

    fn verifier(&self) -> ScramVerifier {
        ScramVerifier::of_password(&self.secrets.database_password).expect("random bytes")
    }

    fn authority(&self) -> Authority {
        let generation = Generation::FIRST;
        Authority { site_id: self.id, generation, cluster: "jakarta-1".to_owned() }
    }

    async fn create(&self, cluster: &SiteDatabases) -> Result<(), SiteDatabaseError> {
        let template = cluster.ensure_template().await?;
        cluster.ensure_roles(&self.name, &self.verifier(), 7, Rights::Write).await?;
        cluster.create_database(&self.name, &template).await
    }

    async fn seed(&self, cluster: &SiteDatabases) -> Result<(), SiteDatabaseError> {
        cluster.seed(&self.name, &self.authority(), &limits(), &self.seed_input()).await
    }

    fn seed_input(&self) -> Value {
        json!({"name": "Acme", "default_language": "id", "accounts": [{
            "id": self.id, "email": EMAIL, "name": "Siti", "role": "admin",
            "password_hash": PASSWORD_HASH, "invitation_token_hash": null,
            "invitation_expires_at": null,
        }]})
    }

    async fn login(&self, server: &Server, database: &str) -> Result<PgConnection, sqlx::Error> {
        server.login(self.name.login(), &self.secrets.database_password, database).await
    }

    /// A table as a later migration would make it.
    async fn add_note_table(&self, server: &Server) {
        let mut admin = server.admin(self.name.as_str()).await;
        let sql = format!(
            "set role {};
             create table if not exists note (id bigint generated always as identity primary key, body text not null)",
            self.name.owner()
        );
        execute(&mut admin, &sql).await.expect("the owner makes a table");
        close(admin).await;
    }
}

fn limits() -> Limits {
    Limits {
        plan: "starter".to_owned(),
        max_students: Some(5000),
        max_instructors: Some(50),
        max_courses: None,
        storage_bytes: Some(1 << 30),
        max_upload_bytes: 1 << 20,
    }
}

fn cluster(server: &Server) -> SiteDatabases {
    SiteDatabases::new("jakarta-1", &server.admin_url()).expect("a URL")
}

/// The site schema's own `seed_site`, or one that stands in where the schema has none yet.
async fn ensure_seed_function(server: &Server, site: &Site, body: &str) {
    let mut admin = server.admin(site.name.as_str()).await;
    let sql = format!(
        "do $do$ begin
             if to_regprocedure('platform.seed_site(jsonb)') is null then
                 set local role {};
                 create function platform.seed_site(input jsonb) returns void language plpgsql
                     as $body$ begin {body} end $body$;
                 revoke all on function platform.seed_site(jsonb) from public;
             end if;
         end $do$",
        site.name.owner()
    );
    execute(&mut admin, &sql).await.expect("makes the function");
    close(admin).await;
}

#[tokio::test]
async fn a_site_is_made_and_dropped_and_every_verb_may_run_twice() {
    let server = Server::start(SAME_USER, "");
    let cluster = cluster(&server);
    let site = Site::new();
    cluster.probe().await.expect("answers");
    for _ in 0..2 {
        site.create(&cluster).await.expect("makes");
        ensure_seed_function(&server, &site, "return;").await;
        site.seed(&cluster).await.expect("fills");
    }
    assert_eq!(cluster.check_isolation(&site.name).await.expect("looks"), Vec::<String>::new());
    let listed = cluster.list_site_databases().await.expect("lists");
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].name, site.name);
    assert_eq!(listed[0].schema_version, Some(migrations::Schema::Site.latest_version()));
    assert_eq!(cluster.list_site_roles().await.expect("lists"), std::slice::from_ref(&site.name));

    let mut app = site.login(&server, site.name.as_str()).await.expect("the app connects");
    let plan: String = fetch(&mut app, "select plan from platform.site_limit").await;
    assert_eq!(plan, "starter");
    let other = Limits { plan: "professional".to_owned(), ..limits() };
    cluster.set_limits(&site.name, &other).await.expect("sets");
    let plan: String = fetch(&mut app, "select plan from platform.site_limit").await;
    assert_eq!(plan, "professional");

    for _ in 0..2 {
        cluster.close(&site.name).await.expect("closes");
    }
    assert!(execute(&mut app, "select 1").await.is_err(), "its session was ended");
    assert!(site.login(&server, site.name.as_str()).await.is_err());
    // A late run of a step of its making does not open it again.
    site.create(&cluster).await.expect("runs");
    assert!(site.login(&server, site.name.as_str()).await.is_err());
    cluster.reopen(&site.name).await.expect("opens");
    site.login(&server, site.name.as_str()).await.expect("connects");

    let early = cluster.drop_roles(&site.name).await.expect_err("the database is there");
    assert!(!early.is_retryable(), "{early}");
    for _ in 0..2 {
        cluster.drop_database(&site.name).await.expect("drops");
        cluster.close(&site.name).await.expect("is closed");
    }
    for _ in 0..2 {
        cluster.drop_roles(&site.name).await.expect("drops");
        cluster.drop_database(&site.name).await.expect("is gone");
    }
    assert!(!cluster.exists(&site.name).await.expect("looks"));
    assert!(cluster.list_site_databases().await.expect("lists").is_empty());
    assert!(cluster.list_site_roles().await.expect("lists").is_empty());
}

#[tokio::test]
async fn the_app_reaches_its_own_database_only_and_cannot_raise_itself() {
    // Without pg_hba's wall: the privileges alone must hold.
    let server = Server::start(ANY_DATABASE, "");
    let cluster = cluster(&server);
    let (a, b) = (Site::new(), Site::new());
    for site in [&a, &b] {
        site.create(&cluster).await.expect("makes");
        ensure_seed_function(&server, site, "return;").await;
        site.seed(&cluster).await.expect("fills");
        site.add_note_table(&server).await;
        assert_eq!(cluster.check_isolation(&site.name).await.expect("looks"), Vec::<String>::new());
    }
    let template = cluster.ensure_template().await.expect("is there");
    for database in [b.name.as_str(), "postgres", "template1", template.database()] {
        let refused = code(a.login(&server, database).await);
        assert!(["42501", "55000"].contains(&refused.as_str()), "{database}: {refused}");
    }
    let mut app = a.login(&server, a.name.as_str()).await.expect("connects");
    execute(&mut app, "insert into note (body) values ('x'); update note set body = 'y'")
        .await
        .expect("writes");
    for forbidden in [
        "update platform.site_limit set max_students = null",
        "delete from platform.site_limit",
        "update platform.site_authority set state = 'primary'",
        "insert into platform.move_marker values (1, '0/0')",
        "truncate note",
        "create table mine (id int)",
        "create temp table mine (id int)",
        "create schema mine",
        "drop table note",
        "alter table note add column more text",
        "select platform.seed_site('{}')",
        "select lo_create(0)",
        "create role mine",
        "create database mine",
    ] {
        assert_eq!(code(execute(&mut app, forbidden).await), "42501", "{forbidden}");
    }
    let other = a.name.ro();
    let escape = format!("set role {}", b.name.rw());
    assert_eq!(code(execute(&mut app, &escape).await), "42501");
    assert_eq!(code(execute(&mut app, &format!("set role {other}")).await), "42501");

    // Without the right to, a grant is only a warning: nothing was granted.
    execute(&mut app, "grant select on note to public").await.expect("warns");
    assert_eq!(cluster.check_isolation(&a.name).await.expect("looks"), Vec::<String>::new());

    let mut admin = server.admin("postgres").await;
    for (damage, told) in [
        (format!("grant connect on database {} to public", a.name), "PUBLIC has CONNECT"),
        (format!("grant {} to {}", b.name.rw(), a.name), "is in group"),
        (format!("alter role {} createdb", a.name), "has an attribute"),
    ] {
        execute(&mut admin, &damage).await.expect("damages");
        let findings = cluster.check_isolation(&a.name).await.expect("looks").join("; ");
        assert!(findings.contains(told), "{damage}: {findings}");
    }
}

#[tokio::test]
async fn taking_the_group_away_stops_the_writes_of_sessions_that_are_there() {
    let server = Server::start(SAME_USER, "");
    let cluster = cluster(&server);
    let site = Site::new();
    site.create(&cluster).await.expect("makes");
    site.add_note_table(&server).await;
    let mut app = site.login(&server, site.name.as_str()).await.expect("connects");
    execute(&mut app, "insert into note (body) values ('before')").await.expect("writes");
    let mut admin = server.admin("postgres").await;
    let (name, rw, ro) = (&site.name, site.name.rw(), site.name.ro());
    execute(&mut admin, &format!("revoke {rw} from {name}; grant {ro} to {name}"))
        .await
        .expect("fences");
    assert_eq!(code(execute(&mut app, "insert into note (body) values ('after')").await), "42501");
    assert_eq!(fetch::<i64>(&mut app, "select count(*) from note").await, 1);
    // A late run of the steps that made the site does not un-fence it.
    site.create(&cluster).await.expect("runs");
    assert_eq!(code(execute(&mut app, "delete from note").await), "42501");
    assert_eq!(cluster.check_isolation(name).await.expect("looks"), Vec::<String>::new());
    execute(&mut admin, &format!("revoke {ro} from {name}; grant {rw} to {name}"))
        .await
        .expect("opens");
    execute(&mut app, "insert into note (body) values ('again')").await.expect("writes");
}

#[tokio::test]
async fn what_a_crash_left_is_finished() {
    let server = Server::start(SAME_USER, "");
    let cluster = cluster(&server);
    let template = cluster.ensure_template().await.expect("builds");
    let mut admin = server.admin("postgres").await;
    let clone = |name: &SiteDatabaseName| {
        let (owner, template) = (name.owner(), template.database());
        format!("create database {name} owner {owner} template {template} allow_connections false")
    };
    // After the clone; after it was opened; in the middle of a drop that was interrupted.
    for more in [
        "",
        "alter database NAME allow_connections true",
        "update pg_database set datconnlimit = -2 where datname = 'NAME'",
    ] {
        let site = Site::new();
        cluster.ensure_roles(&site.name, &site.verifier(), 7, Rights::Write).await.expect("makes");
        execute(&mut admin, &clone(&site.name)).await.expect("clones");
        let more = more.replace("NAME", site.name.as_str());
        execute(&mut admin, &more).await.expect("goes on");
        if more.contains("allow_connections true") {
            let finish = format!(
                "revoke all on database {0} from public; grant connect on database {0} to {0}",
                site.name
            );
            execute(&mut admin, &finish).await.expect("goes on");
        }
        site.create(&cluster).await.expect("finishes");
        ensure_seed_function(&server, &site, "return;").await;
        assert_eq!(cluster.check_isolation(&site.name).await.expect("looks"), Vec::<String>::new());
        site.login(&server, site.name.as_str()).await.expect("connects");
    }
    // A database without all its roles: they come back.
    let site = Site::new();
    cluster.drop_roles(&site.name).await.expect("nothing to drop");
    let refused = cluster.create_database(&site.name, &template).await.expect_err("no roles");
    assert!(!refused.is_retryable());
    assert!(!cluster.exists(&site.name).await.expect("looks"));
}

#[tokio::test]
async fn a_database_of_another_site_is_not_filled() {
    let server = Server::start(SAME_USER, "");
    let cluster = cluster(&server);
    let site = Site::new();
    site.create(&cluster).await.expect("makes");
    ensure_seed_function(&server, &site, "return;").await;
    site.seed(&cluster).await.expect("fills");
    let mut other = site.authority();
    other.site_id = SiteId::generate();
    let next = Authority { generation: Generation(2), ..site.authority() };
    for authority in [other, next] {
        let outcome = cluster.seed(&site.name, &authority, &limits(), &site.seed_input()).await;
        let error = outcome.expect_err("it is another's");
        assert!(matches!(error, SiteDatabaseError::OtherAuthority { .. }), "{error}");
        assert!(!error.is_retryable());
    }
}

#[tokio::test]
async fn of_many_who_ask_for_the_template_one_builds_it() {
    let server = Server::start(SAME_USER, "");
    let clusters: Vec<_> = (0..4).map(|_| cluster(&server)).collect();
    let mut admin = server.admin("postgres").await;
    // The rest of a build that was killed.
    execute(&mut admin, "create database template_site_building").await.expect("makes");
    execute(&mut admin, "alter database template_site_building is_template true")
        .await
        .expect("marks");
    let race = clusters.iter().map(SiteDatabases::ensure_template);
    let templates = futures_util::future::try_join_all(race).await.expect("builds");
    let oid = "select oid::int8 from pg_database where datname ~ '^template_site'";
    let first: i64 = fetch(&mut admin, oid).await;
    assert!(templates.iter().all(|template| template == &templates[0]));
    assert_eq!(
        server.log().matches("create database template_site_building owner").count(),
        1,
        "one built"
    );
    clusters[0].ensure_template().await.expect("is there");
    assert_eq!(fetch::<i64>(&mut admin, oid).await, first, "it was kept");
    assert_eq!(code(server.login("postgres", "", templates[0].database()).await), "55000");

    // Built from other text: built anew, while sites are made from it.
    let comment =
        format!("comment on database {} is 'ta3lem_schema=1 checksum=0'", templates[0].database());
    execute(&mut admin, &comment).await.expect("comments");
    let site = Site::new();
    clusters[1].ensure_roles(&site.name, &site.verifier(), 7, Rights::Write).await.expect("makes");
    let (rebuilt, made) = tokio::join!(
        clusters[0].ensure_template(),
        clusters[1].create_database(&site.name, &templates[0])
    );
    rebuilt.expect("builds");
    made.expect("makes");
    assert_ne!(fetch::<i64>(&mut admin, oid).await, first);
    ensure_seed_function(&server, &site, "return;").await;
    let findings = clusters[0].check_isolation(&site.name).await.expect("looks");
    assert_eq!(findings, Vec::<String>::new());
}

#[tokio::test]
async fn a_cluster_that_is_down_or_full_says_so() {
    let server = Server::start(SAME_USER, "max_connections = 12");
    let cluster = cluster(&server);
    let site = Site::new();
    site.create(&cluster).await.expect("makes");
    ensure_seed_function(&server, &site, "raise sqlstate '53100';").await;
    if let Err(error) = site.seed(&cluster).await {
        assert!(
            matches!(error, SiteDatabaseError::ClusterFull { exhausted: Exhausted::Disk, .. }),
            "{error}"
        );
    }
    let mut taken = Vec::new();
    while let Ok(connection) = server.login("postgres", "", "postgres").await {
        taken.push(connection);
    }
    let error = cluster.probe().await.expect_err("no connection is left");
    let is_full =
        matches!(error, SiteDatabaseError::ClusterFull { exhausted: Exhausted::Connections, .. });
    assert!(is_full && error.is_retryable(), "{error}");
    assert_eq!(error.component(), "cluster jakarta-1");
    drop(taken);

    server.stop();
    let before = Instant::now();
    for error in [
        cluster.exists(&site.name).await.expect_err("down"),
        cluster.ensure_template().await.expect_err("down"),
        cluster.drop_database(&site.name).await.expect_err("down"),
    ] {
        assert!(matches!(error, SiteDatabaseError::ClusterDown { .. }), "{error}");
        assert!(error.is_retryable());
        assert!(!format!("{error:?}").contains("postgres://"));
    }
    assert!(before.elapsed().as_secs() < 20);
    server.resume();
    assert!(cluster.exists(&site.name).await.expect("answers again"));
    let wrong = SiteDatabases::new("x", "mysql://somewhere:secret@host/db").expect_err("no URL");
    assert!(!format!("{wrong} {wrong:?}").contains("secret"));
}

/// A server that is killed while it greets closes before it has answered, or in the middle of it.
#[tokio::test]
async fn a_server_that_dies_in_its_greeting_is_down() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join(".s.PGSQL.5432");
    let listener = tokio::net::UnixListener::bind(&socket).expect("listens");
    let url = format!("postgres://postgres@localhost/postgres?host={}", folder.path().display());
    let cluster = SiteDatabases::new("jakarta-1", &url).expect("a URL");
    let site = Site::new();
    for words in [&b""[..], b"\0", b"N", b"NR\0\0"] {
        let greets = async {
            loop {
                let (mut stream, _) = listener.accept().await.expect("accepts");
                let mut asked = [0; 8];
                stream.read_exact(&mut asked).await.expect("asks for TLS");
                stream.write_all(words).await.expect("begins to answer");
            }
        };
        let asked = cluster.drop_database(&site.name);
        let error = tokio::select! {
            () = greets => unreachable!("it greets for ever"),
            outcome = asked => outcome.expect_err("is down"),
        };
        let is_down = matches!(error, SiteDatabaseError::ClusterDown { .. });
        assert!(is_down && error.is_retryable(), "{words:?}: {error:?}");
    }
}

#[tokio::test]
async fn no_secret_is_seen_in_the_servers_log_or_its_sessions() {
    let server = Server::start(SAME_USER, "");
    let cluster = cluster(&server);
    let site = Site::new();
    site.create(&cluster).await.expect("makes");
    ensure_seed_function(&server, &site, "perform pg_sleep(0);").await;
    site.seed(&cluster).await.expect("fills");
    let mut admin = server.admin("postgres").await;
    let texts = "select string_agg(query, ' ') from pg_stat_activity";
    let seen: String = fetch(&mut admin, texts).await;
    let log = server.log();
    assert!(log.contains("create database s_") && log.contains("platform.seed_site"), "it logs");
    let secret_parts = [&site.secrets.database_password, "argon2id", EMAIL, "Siti"];
    for secret in secret_parts {
        assert!(!log.contains(secret), "{secret} in the log");
        assert!(!seen.contains(secret), "{secret} in pg_stat_activity");
    }
}

#[tokio::test]
async fn many_are_made_at_once() {
    let server = Server::start(SAME_USER, "");
    let cluster = cluster(&server);
    let sites: Vec<Site> = (0..10).map(|_| Site::new()).collect();
    futures_util::future::try_join_all(sites.iter().map(|site| site.create(&cluster)))
        .await
        .expect("makes ten");
    assert_eq!(cluster.list_site_databases().await.expect("lists").len(), 10);
    let undo = sites.iter().map(async |site| {
        cluster.drop_database(&site.name).await?;
        cluster.drop_roles(&site.name).await
    });
    futures_util::future::try_join_all(undo).await.expect("drops ten");
    assert!(cluster.list_site_databases().await.expect("lists").is_empty());
    assert!(cluster.list_site_roles().await.expect("lists").is_empty());
}

/// Prints how long a site's database takes; run by hand on an idle machine:
/// `cargo test -p provisioner --test site_database -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "a measurement, which needs an idle machine"]
async fn measure_the_making_of_a_site() {
    let server = Server::start(
        SAME_USER,
        "wal_level = logical\nwal_compression = on\nshared_buffers = '256MB'",
    );
    let cluster = cluster(&server);
    let template = cluster.ensure_template().await.expect("builds");
    let mut times = Vec::new();
    for _ in 0..40 {
        let site = Site::new();
        let verifier = site.verifier();
        let start = Instant::now();
        cluster.ensure_roles(&site.name, &verifier, 7, Rights::Write).await.expect("makes");
        let roles = start.elapsed();
        cluster.create_database(&site.name, &template).await.expect("makes");
        let database = start.elapsed();
        ensure_seed_function(&server, &site, "return;").await;
        let seeding = Instant::now();
        site.seed(&cluster).await.expect("fills");
        let seed = seeding.elapsed();
        times.push([roles, database - roles, seed, database + seed].map(|t| t.as_secs_f64() * 1e3));
    }
    for (index, part) in ["roles", "database", "seed", "all"].iter().enumerate() {
        let mut sorted: Vec<f64> = times.iter().map(|time| time[index]).collect();
        sorted.sort_by(f64::total_cmp);
        println!(
            "{part:>9}: p50 {:.1} ms, p95 {:.1} ms, max {:.1} ms",
            sorted[20], sorted[37], sorted[39]
        );
    }
}
