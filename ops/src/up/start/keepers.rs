//! A keeper for each region's cluster: it makes the backups.

use std::path::Path;

use provisioner_api::{backups::PutKeeper, client::Client};

use super::{
    REGIONS, RegionPlan,
    wait::{until, write_config},
};
use crate::{
    data_dir::secret_in,
    up::{
        authority::Authority,
        platform::{self, Platform},
        postgres::{self, Cluster},
        progress::step,
        supervisor::wait_ready,
    },
};

/// Starts all of them, and waits until each has reported.
pub async fn start(
    platform: &Platform,
    beside: &Path,
    api: &str,
    client: &Client,
    clusters: &[Cluster],
) -> anyhow::Result<()> {
    let keepers = REGIONS.iter().zip(clusters);
    let keepers = keepers.map(|(region, cluster)| async move {
        let log = platform.data.log(&component(region));
        step(&format!("keeper of {}", region.cluster), Some(&log), async {
            start_keeper(platform, beside, api, client, (region, cluster)).await
        })
        .await
    });
    futures_util::future::try_join_all(keepers).await.map(drop)
}

fn component(region: &RegionPlan) -> String {
    format!("keeper-{}", region.name)
}

async fn start_keeper(
    platform: &Platform,
    beside: &Path,
    api: &str,
    client: &Client,
    (region, cluster): (&RegionPlan, &Cluster),
) -> anyhow::Result<()> {
    let data = &platform.data;
    let name = component(region);
    let token_file = data.secrets().join(&name);
    let keeper = PutKeeper { token: secret_in(&token_file)? };
    let before = client.put_keeper(region.cluster, &keeper).await?.reported_at;
    let config = serde_json::json!({
        "api": api,
        "token_file": token_file,
        "postgres": {
            "data_directory": cluster.directory,
            "socket_directory": cluster.sockets,
            "port": postgres::PORT,
            "user": postgres::ADMIN,
            "password_file": data.secrets().join(format!("postgres-{}", region.name)),
        },
        "directory": data.keeper(region.name),
        // The embedded object store takes TLS at the port of its endpoint.
        "object_store": { "host": "localhost", "ca_file": Authority::of(data).certificate },
    });
    let config = write_config(data, &name, &config)?;
    let mut component = platform::own(&name, beside.join("ta3lem"), &config, data.log(&name));
    component.arguments.splice(0..0, ["cluster", "keep"].map(str::to_owned));
    let launched = platform.launch(component)?;
    let reported = until(|| async {
        let all = client.backups().await?;
        let own = all.into_iter().find(|backups| backups.cluster == region.cluster);
        let reported_at = own.and_then(|backups| backups.reported_at);
        anyhow::ensure!(reported_at > before, "it has not reported");
        Ok(())
    });
    wait_ready(launched.status, &launched.log, reported).await
}
