//! A site reaches its own database and prefix, and nothing else.

use anyhow::{Context, Result, ensure};
use provisioner::{
    control_db::{ControlDb, clusters, object_stores, placements},
    secrets::{Keys, PlacementSecrets},
};
use s3::{Bucket, Region, creds::Credentials};
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tests::Stack;

use crate::site_life::{create, delete};

const REGION: &str = "id-jakarta";

/// What an instance of a site holds.
struct Held {
    options: PgConnectOptions,
    database: String,
    bucket: Box<Bucket>,
    prefix: String,
}

async fn held(stack: &Stack, slug: &str) -> Result<Held> {
    let db = ControlDb::new(&stack.control_database_url()?)?;
    let ring = stack.data_dir().join(format!("secrets/region-{REGION}.keys.json"));
    let keys = Keys::load(&[(REGION.to_owned(), ring)].into())
        .map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
    let site = stack.api()?.site(slug).await?;
    let mut connection = db.pool.acquire().await?;
    let placement = placements::current(&mut connection, site.id).await?.context("no placement")?;
    let secrets: PlacementSecrets = keys.open(REGION, placement.id, &placement.sealed_secrets)?;
    let cluster = clusters::get(&db.pool, &keys, placement.cluster).await?.cluster;
    let store = object_stores::get(&db.pool, &keys, placement.object_store).await?.store;
    let credentials =
        Credentials::new(Some(&secrets.access_key), Some(&secrets.secret_key), None, None, None)?;
    let region = Region::Custom { region: REGION.to_owned(), endpoint: store.endpoint };
    Ok(Held {
        options: PgConnectOptions::new_without_pgpass()
            .host(&cluster.app_host)
            .port(cluster.app_port)
            .username(&placement.database_name)
            .password(&secrets.database_password),
        database: placement.database_name,
        bucket: Bucket::new(&store.bucket, region, credentials)?.with_path_style(),
        prefix: placement.prefix,
    })
}

pub async fn a_site_reaches_only_its_own(stack: &Stack) -> Result<()> {
    create(stack, "mine").await?;
    create(stack, "theirs").await?;
    let (mine, theirs) = (held(stack, "mine").await?, held(stack, "theirs").await?);

    let own = mine.options.clone().database(&mine.database);
    let mut connection = PgConnection::connect_with(&own).await?;
    for database in [theirs.database.as_str(), "postgres", "template1", "control"] {
        let other = PgConnection::connect_with(&mine.options.clone().database(database)).await;
        ensure!(other.is_err(), "the role of one site connects to {database}");
    }
    for refused in [
        "update platform.site_authority set generation = 99",
        "update platform.site_limit set max_students = null",
        "delete from platform.site_limit",
        "insert into platform.move_marker (generation, fence_lsn) values (9, '0/0')",
        "create table own (id int)",
        "create schema own",
        "create role own",
        "truncate account",
        "drop table account",
        "alter table account disable trigger all",
        "select platform.seed_site('{}')",
    ] {
        let outcome = sqlx::raw_sql(refused).execute(&mut connection).await;
        ensure!(outcome.is_err(), "a site may: {refused}");
    }
    let owned: i64 = sqlx::query_scalar(
        "select count(*) from pg_class where relowner = (
             select oid from pg_roles where rolname = current_user)",
    )
    .fetch_one(&mut connection)
    .await?;
    ensure!(owned == 0, "the login role owns {owned} things");
    let read: i64 =
        sqlx::query_scalar("select count(*) from account").fetch_one(&mut connection).await?;
    ensure!(read == 1, "the site reads its own: {read} accounts");

    // Files: its own prefix, and nothing beside it.
    let own = format!("/{}/blob/story", mine.prefix);
    let foreign = format!("/{}/blob/story", theirs.prefix);
    mine.bucket.put_object(&own, b"mine").await?;
    theirs.bucket.put_object(&foreign, b"theirs").await?;
    ensure!(mine.bucket.get_object(&own).await?.bytes().as_ref() == b"mine");
    for path in [&foreign, "/story", &format!("/{}/../{}/blob/story", mine.prefix, theirs.prefix)] {
        ensure!(mine.bucket.get_object(path).await.is_err(), "a site reads {path}");
        ensure!(mine.bucket.put_object(path, b"x").await.is_err(), "a site writes {path}");
        ensure!(mine.bucket.delete_object(path).await.is_err(), "a site deletes {path}");
    }
    ensure!(mine.bucket.list(theirs.prefix.clone(), None).await.is_err(), "a site lists another");
    ensure!(mine.bucket.list(String::new(), None).await.is_err(), "a site lists all");
    ensure!(theirs.bucket.get_object(&foreign).await?.bytes().as_ref() == b"theirs");
    let copied = mine.bucket.copy_object_internal(&foreign, &own).await;
    ensure!(copied.is_err(), "a site copies from another");

    connection.close().await?;
    delete(stack, "mine").await?;
    delete(stack, "theirs").await
}
