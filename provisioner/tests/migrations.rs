//! Both schemas on a real server: applied once however often and by however many they are run, and
//! the same whether step by step or at once.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use migrations::Schema;

mod parts {
    #[allow(dead_code, reason = "each test file uses its own part of it")]
    pub mod postgres;
}
use parts::postgres::{ANY_DATABASE, Server, close, execute, fetch};

const NOTE: &str = "select shobj_description(oid, 'pg_database') from pg_database
                    where datname = current_database()";

async fn make(server: &Server, database: &str) {
    let mut admin = server.admin("postgres").await;
    execute(&mut admin, &format!("create database {database}")).await.expect("makes");
    close(admin).await;
}

#[tokio::test]
async fn a_schema_is_the_same_step_by_step_at_once_and_by_two_runners() {
    let server = Server::start(ANY_DATABASE, "");
    for schema in [Schema::Control, Schema::Site] {
        let all: Vec<u32> = (1..=schema.latest_version()).collect();
        let [steps, once, race] =
            ["steps", "once", "race"].map(|how| format!("{how}_{schema:?}").to_lowercase());
        for database in [&steps, &once, &race] {
            make(&server, database).await;
        }
        let mut connection = server.admin(&steps).await;
        for version in &all {
            let applied = schema.migrate_to(*version, &mut connection).await.expect("applies");
            assert_eq!(applied, [*version]);
            let note: String = fetch(&mut connection, NOTE).await;
            assert_eq!(migrations::noted_version(&note), Some(*version));
        }
        let mut connection = server.admin(&once).await;
        assert_eq!(schema.migrate(&mut connection).await.expect("applies"), all);
        assert_eq!(schema.migrate(&mut connection).await.expect("runs"), Vec::<u32>::new());
        let timeout: String = fetch(&mut connection, "show lock_timeout").await;
        assert_eq!(timeout, "0", "the connection is as it was");

        let (mut first, mut second) = (server.admin(&race).await, server.admin(&race).await);
        let (a, b) = tokio::join!(schema.migrate(&mut first), schema.migrate(&mut second));
        let mut applied = [a.expect("applies"), b.expect("waits")];
        applied.sort();
        assert_eq!(applied, [vec![], all], "one of the two");
        let dump = |database: &str| server.dump_schema(database);
        assert_eq!(dump(&steps), dump(&once));
        assert_eq!(dump(&race), dump(&once));
    }
}

#[tokio::test]
async fn the_note_is_true_also_when_a_migration_fails() {
    let server = Server::start(ANY_DATABASE, "");
    make(&server, "broken").await;
    let mut connection = server.admin("broken").await;
    // In the way of the first migration.
    execute(&mut connection, "create schema platform; create table platform.site_limit ()")
        .await
        .expect("makes");
    let error = Schema::Site.migrate(&mut connection).await.expect_err("it is in the way");
    let cause = error.database_error().expect("Postgres said it").to_string();
    assert!(cause.contains("site_limit"), "{cause}");
    assert_eq!(fetch::<Option<String>>(&mut connection, NOTE).await, None);
    let locks: i64 =
        fetch(&mut connection, "select count(*) from pg_locks where locktype = 'advisory'").await;
    assert_eq!(locks, 0, "the next runner need not wait");
    execute(&mut connection, "drop table platform.site_limit").await.expect("clears the way");
    let applied = Schema::Site.migrate(&mut connection).await.expect("applies");
    assert_eq!(applied.first(), Some(&1));
}
