//! A platform's clusters and object stores as they are registered, for stories that register them
//! otherwise.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use provisioner_api::{
    client::Client,
    places::{Cluster, PutCluster, PutObjectStore},
};
use serde_json::Value;

use crate::Stack;

/// How long the provisioner may take to reach a place.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster as it is now.
///
/// # Errors
/// When its password cannot be read.
pub fn cluster(stack: &Stack, cluster: &Cluster) -> Result<PutCluster> {
    Ok(PutCluster {
        region: cluster.region.clone(),
        admin_url: stack.admin_url(&cluster.region, "postgres")?,
        app_host: cluster.app_host.clone(),
        app_port: cluster.app_port,
        max_databases: cluster.max_databases,
        accepts_sites: cluster.accepts_sites,
        replication_host: cluster.replication_host.clone(),
        replication_port: cluster.replication_port,
    })
}

/// The object store of a region as if it were reached at `address`.
///
/// # Errors
/// When what it remembers of itself cannot be read.
pub fn object_store(stack: &Stack, region: &str, address: SocketAddr) -> Result<PutObjectStore> {
    let identity = identity(stack, region)?;
    let text = |name: &str| identity[name].as_str().map(str::to_owned).context("no such field");
    Ok(PutObjectStore {
        region: region.to_owned(),
        endpoint: format!("http://{address}"),
        key_admin_url: format!("http://{address}/_keys"),
        bucket: text("bucket")?,
        access_key: text("admin_access_key")?,
        secret_key: text("admin_secret_key")?,
        key_admin_token: text("key_admin_token")?,
        accepts_sites: true,
    })
}

/// Where the object store of a region listens.
///
/// # Errors
/// When what it remembers of itself cannot be read.
pub fn object_store_address(stack: &Stack, region: &str) -> Result<SocketAddr> {
    let port = identity(stack, region)?["port"].as_u64().context("no port")?;
    Ok(SocketAddr::from(([127, 0, 0, 1], u16::try_from(port)?)))
}

/// Waits until the provisioner has reached everything that is registered.
///
/// # Errors
/// When that does not happen in time.
pub async fn ready(api: &Client) -> Result<()> {
    let begun = Instant::now();
    loop {
        let (clusters, stores) = (api.clusters().await?, api.object_stores().await?);
        let is_ready =
            |cluster: &Cluster| cluster.template_version.is_some() && cluster.last_error.is_none();
        let ready = clusters.iter().all(is_ready)
            && stores.iter().all(|store| store.last_seen_at.is_some());
        if ready {
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "not reached: {clusters:?} {stores:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn identity(stack: &Stack, region: &str) -> Result<Value> {
    let directory = stack.data_dir().join("object-stores").join(region);
    Ok(serde_json::from_str(&std::fs::read_to_string(directory.join("identity.json"))?)?)
}
