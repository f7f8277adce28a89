//! A router for each region.

use std::path::Path;

use provisioner_api::{Router, client::Client};
use serde::Deserialize;
use serde_json::Value;

use super::{
    PLATFORM_DOMAIN, REGIONS, key_ring_file,
    wait::{absent, appears, until, write_config},
};
use crate::up::{
    UpArgs,
    authority::Authority,
    control_database::ControlDatabase,
    platform::{self, Platform},
    ports::{self, RouterPorts},
    progress::step,
    ready::{RegionReady, RouterReady},
    supervisor::wait_ready,
};

/// What a router writes when it listens.
#[derive(Deserialize)]
struct RouterListens {
    https: String,
    http: String,
    admin: String,
    passthrough: String,
}

/// Starts all of them.
pub async fn start(
    platform: &Platform,
    beside: &Path,
    urls: &ControlDatabase,
    router_ports: &[RouterPorts],
    client: &Client,
    args: &UpArgs,
) -> anyhow::Result<Vec<RegionReady>> {
    let traces = &traces(args);
    let routers = REGIONS.iter().zip(&urls.router_urls).zip(router_ports);
    let routers = routers.map(|((region, url), ports)| async move {
        let name = format!("router-{}", region.name);
        let log = platform.data.log(&name);
        step(&format!("router for {}", region.name), Some(&log), async {
            let place = (&*name, region.name);
            start_router(platform, beside, place, url, *ports, client, traces.as_ref()).await
        })
        .await
    });
    futures_util::future::try_join_all(routers).await
}

/// Where the routers send spans, as they are told.
fn traces(args: &UpArgs) -> Option<Value> {
    let endpoint = args.traces_endpoint.as_ref()?;
    Some(match args.traces_ratio {
        Some(ratio) => serde_json::json!({ "endpoint": endpoint, "ratio": ratio }),
        None => serde_json::json!({ "endpoint": endpoint }),
    })
}

async fn start_router(
    platform: &Platform,
    beside: &Path,
    (name, region): (&str, &str),
    control_database_url: &str,
    ports: RouterPorts,
    client: &Client,
    traces: Option<&Value>,
) -> anyhow::Result<RegionReady> {
    let data = &platform.data;
    let ready_file = data.run().join(format!("{name}.ready.json"));
    let mut config = serde_json::json!({
        "name": name,
        "region": region,
        "platform_domain": PLATFORM_DOMAIN,
        "https_listen": format!("127.0.0.1:{}", ports.https),
        "http_listen": format!("127.0.0.1:{}", ports.http),
        "admin_listen": ports::remembered(data, name)?,
        "passthrough_listen": ports::remembered(data, &format!("{name}-passthrough"))?,
        "passthrough_from": ["127.0.0.0/8"],
        "trusted_roots": Authority::of(data).certificate,
        "control_database_url": control_database_url,
        "region_keys": key_ring_file(data, region),
        "snapshot_file": data.root().join("snapshots").join(format!("{name}.snapshot")),
        "ready_file": ready_file,
        "handover_socket": data.run().join(format!("{name}.handover")),
        "log": "info",
        "drain_secs": platform::DRAIN.as_secs(),
    });
    if let Some(traces) = traces {
        config["traces"] = traces.clone();
    }
    crate::data_dir::make_directory(&data.root().join("snapshots"))?;
    let config = write_config(data, name, &config)?;
    absent(&ready_file)?;
    let component = platform::own(name, beside.join("router"), &config, data.log(name));
    let launched = platform.launch(component)?;
    let process_id = launched.status.borrow().process_id;
    let listens: RouterListens = wait_ready(launched.status, &launched.log, async {
        let listens: RouterListens = appears(&ready_file).await?;
        let url = format!("http://{}/readyz", listens.admin);
        let http = reqwest::Client::builder().no_proxy().build()?;
        until(|| async {
            http.get(&url).send().await?.error_for_status()?;
            Ok(())
        })
        .await?;
        Ok(listens)
    })
    .await?;
    let router = Router {
        name: name.to_owned(),
        region: region.to_owned(),
        https_address: listens.https.clone(),
        http_address: listens.http.clone(),
        admin_url: format!("http://{}", listens.admin),
        passthrough_address: Some(listens.passthrough.clone()),
    };
    client.put_router(name, &router).await?;
    Ok(RegionReady {
        name: region.to_owned(),
        router: RouterReady {
            https: listens.https,
            http: listens.http,
            admin: router.admin_url,
            process_id,
        },
    })
}
