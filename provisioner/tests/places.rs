//! Clusters and object stores in a real control database: registered, looked at, chosen.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use provisioner::{
    control_db::{
        cluster_backups,
        clusters::{self, NoCluster, PlaceError},
        object_stores,
    },
    reconcilers::clusters::ClusterReconciler,
    secrets::Keys,
    site_database::Clusters,
    site_storage::ObjectStores,
};
use provisioner_api::places::{PutCluster, PutObjectStore};
use sqlx::{PgPool, postgres::PgPoolOptions};

mod parts {
    #[allow(dead_code, reason = "each test file uses its own part of it")]
    pub mod object_store;
    #[allow(dead_code, reason = "each test file uses its own part of it")]
    pub mod postgres;
}
use parts::{
    object_store::{BUCKET, Endpoint},
    postgres::{SAME_USER, Server, execute},
};

const REGION: &str = "id-jakarta";

async fn control(server: &Server) -> PgPool {
    let mut admin = server.admin("postgres").await;
    execute(&mut admin, "create database control").await.expect("makes");
    let mut admin = server.admin("control").await;
    migrations::Schema::Control.migrate(&mut admin).await.expect("applies");
    execute(&mut admin, "insert into region values ('id-jakarta', 'Jakarta')").await.expect("puts");
    let url = server.admin_url().replace("/postgres?", "/control?");
    PgPoolOptions::new().max_connections(5).connect(&url).await.expect("connects")
}

fn cluster(server: &Server) -> PutCluster {
    PutCluster {
        region: REGION.to_owned(),
        admin_url: server.admin_url(),
        app_host: server.path().display().to_string(),
        app_port: 5432,
        max_databases: 250,
        accepts_sites: true,
        replication_host: None,
        replication_port: None,
    }
}

fn object_store(endpoint: &Endpoint) -> PutObjectStore {
    let admin = endpoint.admin.clone();
    PutObjectStore {
        region: REGION.to_owned(),
        endpoint: endpoint.url.clone(),
        bucket: BUCKET.to_owned(),
        access_key: admin.access_key,
        secret_key: admin.secret_key,
        key_admin_url: admin.key_admin_url,
        key_admin_token: admin.key_admin_token,
        accepts_sites: true,
    }
}

#[tokio::test]
async fn places_are_registered_looked_at_and_chosen() {
    let (server, sites) = (Server::start(SAME_USER, ""), Server::start(SAME_USER, ""));
    let mut endpoint = Endpoint::start().await;
    let control = control(&server).await;
    let ring = control_types::seal::KeyRing::generate(REGION).expect("random bytes");
    let keys = Keys::from_rings([ring]);
    let put = clusters::put(&control, &keys, "jakarta-1", &cluster(&sites)).await.expect("puts");
    assert_eq!((put.n_databases, put.template_version), (0, None));
    let sealed = "select xmin::text from cluster";
    let before: String = sqlx::query_scalar(sealed).fetch_one(&control).await.expect("reads");
    clusters::put(&control, &keys, "jakarta-1", &cluster(&sites)).await.expect("puts again");
    let after: String = sqlx::query_scalar(sealed).fetch_one(&control).await.expect("reads");
    assert_eq!(before, after, "putting the same writes nothing");
    object_stores::put(&control, &keys, "files", &object_store(&endpoint)).await.expect("puts");

    let mut connection = control.acquire().await.expect("a connection");
    let refusal = clusters::choose_for_site(&mut connection, REGION).await.expect("answers");
    assert!(matches!(refusal, Err(NoCluster::NoTemplate { .. })));
    let refusal = object_stores::choose_for_site(&mut connection, REGION).await.expect("answers");
    assert!(refusal.is_err_and(|refusal| refusal.is_retryable()));

    let registry = Clusters::new(control.clone(), keys.clone());
    let stores = ObjectStores::new(control.clone(), keys.clone());
    let reconciler = ClusterReconciler::new(control.clone(), registry.clone(), stores);
    reconciler.run_once().await.expect("looks");
    let chosen = clusters::choose_for_site(&mut connection, REGION).await.expect("answers");
    assert_eq!(chosen.expect("it is ready").id, put.id);
    let chosen = object_stores::choose_for_site(&mut connection, REGION).await.expect("answers");
    assert_eq!(chosen.expect("it is ready").name, "files");
    assert!(
        registry.get(put.id).await.expect("is there").exists(&some_name()).await.is_ok_and(|e| !e)
    );

    // What cannot be reached is noted and not chosen; what comes back is chosen again.
    sites.stop();
    endpoint.stop();
    reconciler.run_once().await.expect("looks");
    let refusal = clusters::choose_for_site(&mut connection, REGION).await.expect("answers");
    assert!(matches!(refusal, Err(NoCluster::Unreachable { .. })));
    let seen = object_stores::list(&control).await.expect("lists");
    assert!(seen[0].last_error.as_ref().is_some_and(|error| error.contains("cannot be reached")));
    sites.resume();
    reconciler.run_once().await.expect("looks");
    let chosen = clusters::choose_for_site(&mut connection, REGION).await.expect("answers");
    assert!(chosen.is_ok());
}

#[tokio::test]
async fn a_wrong_registration_names_what_is_wrong() {
    let server = Server::start(SAME_USER, "");
    let control = control(&server).await;
    let ring = control_types::seal::KeyRing::generate("sg-singapore").expect("random bytes");
    let keys = Keys::from_rings([ring]);
    let put = async |name: &str, cluster: PutCluster| {
        clusters::put(&control, &keys, name, &cluster).await.expect_err("it is wrong")
    };
    let right = || cluster(&server);
    let unknown = PutCluster { region: "id-bandung".to_owned(), ..right() };
    assert!(
        matches!(put("a", unknown).await, PlaceError::NoRegion(region) if region == "id-bandung")
    );
    assert!(matches!(put("a", right()).await, PlaceError::Secret(_)), "no keys for the region");
    let bad_url = PutCluster { admin_url: "http://x".to_owned(), ..right() };
    assert!(matches!(put("a", bad_url).await, PlaceError::Field { field: "admin_url", .. }));
    let mut admin = server.admin("control").await;
    execute(&mut admin, "insert into region values ('sg-singapore', 'Singapore')")
        .await
        .expect("puts");
    let here = || PutCluster { region: "sg-singapore".to_owned(), ..right() };
    assert!(matches!(put("A b", here()).await, PlaceError::Field { field: "name", .. }));
    let none = PutCluster { max_databases: 0, ..here() };
    assert!(matches!(put("a", none).await, PlaceError::Field { field: "max_databases", .. }));
    assert!(clusters::list(&control).await.expect("lists").is_empty());
}

#[tokio::test]
async fn backups_stay_in_the_region_of_their_cluster() {
    let server = Server::start(SAME_USER, "");
    let control = control(&server).await;
    let rings = ["id-jakarta", "sg-singapore"]
        .map(|region| control_types::seal::KeyRing::generate(region).expect("random bytes"));
    let keys = Keys::from_rings(rings);
    let mut admin = server.admin("control").await;
    execute(&mut admin, "insert into region values ('sg-singapore', 'Singapore')")
        .await
        .expect("puts");
    let put = async |region: &str| {
        let there = PutCluster { region: region.to_owned(), ..cluster(&server) };
        clusters::put(&control, &keys, "a", &there).await
    };
    let keeper = async |name| {
        let token = "0123456789abcdef0123456789abcdef";
        cluster_backups::put_keeper(&control, &keys, name, token).await
    };
    put(REGION).await.expect("puts");
    assert!(matches!(keeper("b").await, Ok(None)), "there is no such cluster");
    assert!(matches!(keeper("a").await, Err(PlaceError::Field { .. })), "no object store there");
    let endpoint = Endpoint::start().await;
    let store = object_store(&endpoint);
    object_stores::put(&control, &keys, "files", &store).await.expect("puts");
    assert!(matches!(keeper("a").await, Ok(Some(_))));
    assert!(matches!(put("sg-singapore").await, Err(PlaceError::InUse { .. })));
    let elsewhere = PutObjectStore { region: "sg-singapore".to_owned(), ..store };
    let moved = object_stores::put(&control, &keys, "files", &elsewhere).await;
    assert!(matches!(moved, Err(PlaceError::InUse { .. })), "{:?}", moved.err());
}

fn some_name() -> provisioner::site_database::SiteDatabaseName {
    provisioner::site_database::SiteDatabaseName::of_placement(uuid::Uuid::now_v7())
}
