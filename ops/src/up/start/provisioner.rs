//! The provisioner, and what it is told of: regions, clusters, object stores.

use std::{collections::BTreeMap, net::Ipv4Addr, path::Path, time::Duration};

use anyhow::bail;
use provisioner_api::{
    client::Client,
    places::{PutCluster, PutRegion},
};
use serde::Deserialize;

use super::{
    MAX_DATABASES, PATIENCE, PLATFORM_DOMAIN, REGIONS, StorePlan, key_ring_file, token_file,
    wait::{absent, appears, until, write_config},
};
use crate::{
    data_dir::secret_in,
    up::{
        UpArgs,
        authority::Authority,
        control_database::ControlDatabase,
        platform::{self, Platform},
        ports,
        postgres::{Cluster, PORT},
        progress::step,
        supervisor::wait_ready,
    },
};

/// What a process writes when it listens.
#[derive(Deserialize)]
struct ProvisionerReady {
    listen: String,
}

/// Starts it; the URL of its API.
pub async fn start(
    platform: &Platform,
    beside: &Path,
    urls: &ControlDatabase,
    authority: &Authority,
    args: &UpArgs,
) -> anyhow::Result<String> {
    let data = &platform.data;
    let log = data.log("provisioner");
    step("provisioner", Some(&log), async {
        let ready_file = data.run().join("provisioner.ready.json");
        crate::data_dir::make_socket_directory(&data.instances())?;
        let region_keys: BTreeMap<_, _> =
            REGIONS.iter().map(|region| (region.name, key_ring_file(data, region.name))).collect();
        let config = serde_json::json!({
            "listen": ports::remembered(data, "provisioner")?,
            "control_database_url": urls.provisioner_url,
            "region_keys": region_keys,
            "platform_domain": PLATFORM_DOMAIN,
            "certificate_authority": {
                "certificate": authority.certificate,
                "key": authority.key,
            },
            "dns": { "servers": args.dns_server },
            "acme": acme(args),
            "runtime": {
                "kind": "local",
                "directory": data.instances(),
                "logs": data.logs().join("instances"),
                "tenant_app": beside.join("tenant-app"),
                "stop_instances_on_exit": true,
            },
            "bootstrap_token_file": token_file(data),
            "ready_file": ready_file,
            "log": "info",
        });
        let config = write_config(data, "provisioner", &config)?;
        absent(&ready_file)?;
        let program = beside.join("provisioner");
        let launched =
            platform.launch(platform::own("provisioner", program, &config, log.clone()))?;
        let token = secret_in(&token_file(data))?;
        wait_ready(launched.status, &launched.log, async {
            let ready: ProvisionerReady = appears(&ready_file).await?;
            let url = format!("http://{}", ready.listen);
            let client = Client::new(&url, &token)?;
            until(|| async { client.ready().await.map_err(Into::into) }).await?;
            Ok(url)
        })
        .await
    })
    .await
}

/// The one authority that was named.
fn acme(args: &UpArgs) -> Option<serde_json::Value> {
    let directory_url = args.acme_directory.as_ref()?;
    let contact: Vec<_> =
        args.acme_contact.iter().map(|contact| format!("mailto:{contact}")).collect();
    Some(serde_json::json!({
        "authorities": [{
            "name": "acme",
            "directory_url": directory_url,
            "contact": contact,
            "root_certificates": args.acme_root,
        }],
    }))
}

/// Tells it of all there is.
pub async fn register(
    client: &Client,
    clusters: &[Cluster],
    stores: &[StorePlan],
) -> anyhow::Result<()> {
    for (region, cluster) in REGIONS.iter().zip(clusters) {
        let put = PutRegion {
            display_name: region.display_name.to_owned(),
            edge_addresses: Some(vec![Ipv4Addr::LOCALHOST.to_string()]),
        };
        client.put_region(region.name, &put).await?;
        let put = PutCluster {
            region: region.name.to_owned(),
            admin_url: cluster.admin_url("postgres"),
            app_host: cluster.sockets.to_string_lossy().into_owned(),
            app_port: PORT,
            max_databases: MAX_DATABASES,
            accepts_sites: true,
            replication_host: None,
            replication_port: None,
        };
        client.put_cluster(region.cluster, &put).await?;
    }
    for store in stores {
        client.put_object_store(store.name, &store.put).await?;
    }
    Ok(())
}

/// Waits until the provisioner has made each cluster's template and reached each object store: sites
/// are placed nowhere else.
pub async fn places_ready(client: &Client) -> anyhow::Result<()> {
    let mut missing = Vec::new();
    let all_ready = async {
        loop {
            let clusters = client.clusters().await?.into_iter();
            let clusters = clusters
                .filter(|cluster| cluster.template_version.is_none())
                .map(|cluster| (cluster.name, cluster.last_error, "its template is being made"));
            let stores = client.object_stores().await?.into_iter();
            let stores = stores
                .filter(|store| store.last_seen_at.is_none())
                .map(|store| (store.name, store.last_error, "it was not reached yet"));
            missing = clusters
                .chain(stores)
                .map(|(name, error, why)| format!("{name}: {}", error.as_deref().unwrap_or(why)))
                .collect();
            if missing.is_empty() {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, all_ready).await {
        Ok(result) => result,
        Err(_) => bail!("not ready in time: {}", missing.join("; ")),
    }
}
