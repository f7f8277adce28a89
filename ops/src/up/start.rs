//! From nothing to everything, in order. Each step says how it went.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use control_types::seal::KeyRing;
use provisioner_api::{
    Router,
    client::Client,
    places::{PutCluster, PutObjectStore, PutRegion},
};
use serde::Deserialize;

use super::{
    UpArgs,
    authority::Authority,
    control_database::{self, ControlDatabase},
    demo,
    platform::{self, Platform},
    ports::{self, RouterPorts},
    postgres::{Binaries, Cluster, PORT},
    progress::step,
    ready::{Api, Ready, RegionReady, RouterReady, SiteReady},
    supervisor::wait_ready,
};
use crate::{
    data_dir::{DataDir, secret_in, write_private},
    object_store::ObjectStore,
};

/// Sites get their first hostname below this: browsers lead it to this machine by themselves.
const PLATFORM_DOMAIN: &str = "localhost";
/// The bucket of each region's object store.
const BUCKET: &str = "ta3lem-files";
/// How many databases of sites one cluster holds: crash recovery grows with their files.
const MAX_DATABASES: i32 = 250;
/// How long a component may take until it is ready. Crash recovery of many sites takes long.
const PATIENCE: Duration = Duration::from_secs(120);

/// A region of the embedded platform.
pub struct RegionPlan {
    /// Its name.
    pub name: &'static str,
    display_name: &'static str,
    cluster: &'static str,
    object_store: &'static str,
}

/// The two regions, so that residency and moves can be tried on one machine.
pub const REGIONS: &[RegionPlan] = &[
    RegionPlan {
        name: "id-jakarta",
        display_name: "Jakarta, Indonesia",
        cluster: "jakarta-1",
        object_store: "jakarta-files",
    },
    RegionPlan {
        name: "sg-singapore",
        display_name: "Singapore",
        cluster: "singapore-1",
        object_store: "singapore-files",
    },
];

/// What a process writes when it listens.
#[derive(Deserialize)]
struct ProvisionerReady {
    listen: String,
}

#[derive(Deserialize)]
struct RouterListens {
    https: String,
    http: String,
    admin: String,
}

/// Starts everything and returns where it is.
///
/// # Errors
/// Of the first component that fails, with its name and log. What was started before it runs on:
/// the caller stops the platform.
pub async fn start(platform: &Platform, args: &UpArgs) -> anyhow::Result<Ready> {
    let data = &platform.data;
    let binaries = Binaries::find(data).await?;
    let beside = super::binaries_beside_this()?;
    let router_ports = ports::for_routers(args.https_port, args.http_port, REGIONS.len())?;
    let authority = Authority::of(data);
    step("local certificate authority, keys, tokens", None, async {
        authority.ensure()?;
        REGIONS.iter().try_for_each(|region| ensure_key_ring(data, region.name))?;
        secret_in(&token_file(data)).map(drop)
    })
    .await?;
    let (control, clusters) = start_clusters(platform, &binaries).await?;
    let regions: Vec<_> = REGIONS.iter().map(|region| region.name).collect();
    let urls = step("control database", Some(&control.log), async {
        control_database::ensure(&control, data, &regions).await
    })
    .await?;
    let stores = start_object_stores(platform).await?;
    let api = start_provisioner(platform, &beside, &urls, &authority).await?;
    let token = secret_in(&token_file(data))?;
    let client = Client::new(&api, &token)?;
    step("regions, clusters, object stores registered", Some(&data.log("provisioner")), async {
        register(&client, &clusters, &stores).await
    })
    .await?;
    let regions = start_routers(platform, &beside, &urls, &router_ports, &client).await?;
    step("databases ready to be cloned for sites", Some(&data.log("provisioner")), async {
        templates_ready(&client).await
    })
    .await?;
    let addresses: Vec<_> = regions.iter().map(|region| region.router.https.clone()).collect();
    demo::ensure(data, &client, &authority, &addresses, !args.no_demo).await?;
    Ok(Ready {
        api: Api { url: api, token_file: token_file(data) },
        certificate_authority: authority.certificate,
        regions,
        sites: sites(&client).await?,
        processes: platform.processes(),
    })
}

/// The file with the API's token.
pub fn token_file(data: &DataDir) -> PathBuf {
    data.secrets().join("api-token")
}

fn key_ring_file(data: &DataDir, region: &str) -> PathBuf {
    data.secrets().join(format!("region-{region}.keys.json"))
}

fn ensure_key_ring(data: &DataDir, region: &str) -> anyhow::Result<()> {
    let file = key_ring_file(data, region);
    if file.exists() {
        let ring = KeyRing::load(&file)?;
        ensure!(ring.region() == region, "{} holds keys of another region", file.display());
        return Ok(());
    }
    write_private(&file, KeyRing::generate(region)?.to_json().as_bytes())
}

async fn start_clusters(
    platform: &Platform,
    binaries: &Binaries,
) -> anyhow::Result<(Cluster, Vec<Cluster>)> {
    let control = Cluster::of(&platform.data, "control", true)?;
    let regions = REGIONS.iter().map(|region| Cluster::of(&platform.data, region.name, false));
    let clusters = regions.collect::<anyhow::Result<Vec<_>>>()?;
    let starts = std::iter::once(&control).chain(&clusters);
    let starts = starts.map(|cluster| start_cluster(platform, binaries, cluster));
    futures_util::future::try_join_all(starts).await?;
    Ok((control, clusters))
}

async fn start_cluster(
    platform: &Platform,
    binaries: &Binaries,
    cluster: &Cluster,
) -> anyhow::Result<()> {
    let name = format!("Postgres {} for {}", binaries.major, cluster.name);
    step(&name, Some(&cluster.log), async {
        cluster.ensure(binaries, &platform.data.secrets()).await?;
        let launched = platform.launch(platform::postgres(cluster, binaries))?;
        let ready = cluster.wait_ready(PATIENCE);
        wait_ready(launched.status, &launched.log, ready).await.map(drop)
    })
    .await
}

/// What the provisioner is told of an object store.
struct StorePlan {
    name: &'static str,
    put: PutObjectStore,
}

async fn start_object_stores(platform: &Platform) -> anyhow::Result<Vec<StorePlan>> {
    let mut plans = Vec::new();
    for region in REGIONS {
        let directory = platform.data.object_store(region.name);
        let name = format!("object store for {}", region.name);
        let log = platform.data.log("ta3lem");
        let store =
            step(&name, Some(&log), async { ObjectStore::start(&directory, BUCKET).await }).await?;
        plans.push(StorePlan {
            name: region.object_store,
            put: PutObjectStore {
                region: region.name.to_owned(),
                endpoint: store.url(),
                bucket: store.identity.bucket.clone(),
                access_key: store.identity.admin_access_key.clone(),
                secret_key: store.identity.admin_secret_key.clone(),
                key_admin_url: store.key_admin_url(),
                key_admin_token: store.identity.key_admin_token.clone(),
                accepts_sites: true,
            },
        });
        platform.keep(store);
    }
    Ok(plans)
}

async fn start_provisioner(
    platform: &Platform,
    beside: &Path,
    urls: &ControlDatabase,
    authority: &Authority,
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

async fn register(
    client: &Client,
    clusters: &[Cluster],
    stores: &[StorePlan],
) -> anyhow::Result<()> {
    for (region, cluster) in REGIONS.iter().zip(clusters) {
        let put = PutRegion { display_name: region.display_name.to_owned() };
        client.put_region(region.name, &put).await?;
        let put = PutCluster {
            region: region.name.to_owned(),
            admin_url: cluster.admin_url("postgres"),
            app_host: cluster.sockets.to_string_lossy().into_owned(),
            app_port: PORT,
            max_databases: MAX_DATABASES,
            accepts_sites: true,
        };
        client.put_cluster(region.cluster, &put).await?;
    }
    for store in stores {
        client.put_object_store(store.name, &store.put).await?;
    }
    Ok(())
}

async fn start_routers(
    platform: &Platform,
    beside: &Path,
    urls: &ControlDatabase,
    router_ports: &[RouterPorts],
    client: &Client,
) -> anyhow::Result<Vec<RegionReady>> {
    let routers = REGIONS.iter().zip(&urls.router_urls).zip(router_ports);
    let routers = routers.map(|((region, url), ports)| async move {
        let name = format!("router-{}", region.name);
        let log = platform.data.log(&name);
        step(&format!("router for {}", region.name), Some(&log), async {
            start_router(platform, beside, (&name, region.name), url, *ports, client).await
        })
        .await
    });
    futures_util::future::try_join_all(routers).await
}

async fn start_router(
    platform: &Platform,
    beside: &Path,
    (name, region): (&str, &str),
    control_database_url: &str,
    ports: RouterPorts,
    client: &Client,
) -> anyhow::Result<RegionReady> {
    let data = &platform.data;
    let ready_file = data.run().join(format!("{name}.ready.json"));
    let config = serde_json::json!({
        "name": name,
        "region": region,
        "platform_domain": PLATFORM_DOMAIN,
        "https_listen": format!("127.0.0.1:{}", ports.https),
        "http_listen": format!("127.0.0.1:{}", ports.http),
        "admin_listen": ports::remembered(data, name)?,
        "control_database_url": control_database_url,
        "region_keys": key_ring_file(data, region),
        "snapshot_file": data.root().join("snapshots").join(format!("{name}.snapshot")),
        "ready_file": ready_file,
        "log": "info",
        "drain_secs": platform::DRAIN.as_secs(),
    });
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

/// Waits until the provisioner has made each cluster's template.
async fn templates_ready(client: &Client) -> anyhow::Result<()> {
    let mut missing = Vec::new();
    let all_ready = async {
        loop {
            let clusters = client.clusters().await?;
            missing = clusters
                .into_iter()
                .filter(|cluster| cluster.template_version.is_none())
                .map(|cluster| {
                    let reason =
                        cluster.last_error.unwrap_or_else(|| "still being made".to_owned());
                    format!("{}: {reason}", cluster.name)
                })
                .collect();
            if missing.is_empty() {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, all_ready).await {
        Ok(result) => result,
        Err(_) => bail!("no template in time: {}", missing.join("; ")),
    }
}

async fn sites(client: &Client) -> anyhow::Result<Vec<SiteReady>> {
    let mut sites = Vec::new();
    for site in client.sites().await? {
        let urls: Vec<_> = site.domains.iter().map(|domain| domain.url.clone()).collect();
        let Some(placement) = site.placement else { continue };
        let slug = site.slug.to_string();
        sites.push(SiteReady {
            url: urls.first().cloned().unwrap_or_default(),
            urls,
            name: site.name,
            region: placement.region,
            logins: demo::logins(&slug)?,
            slug,
        });
    }
    // The demo is what a newcomer looks for.
    sites.sort_by_key(|site| site.logins.is_empty());
    Ok(sites)
}

fn write_config(data: &DataDir, name: &str, config: &serde_json::Value) -> anyhow::Result<PathBuf> {
    let file = data.config().join(format!("{name}.json"));
    write_private(&file, &serde_json::to_vec_pretty(config)?)?;
    Ok(file)
}

fn absent(file: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", file.display()))
        }
        _ => Ok(()),
    }
}

/// Waits for a file that is written whole.
async fn appears<T: serde::de::DeserializeOwned>(file: &Path) -> anyhow::Result<T> {
    until(|| async {
        let text = tokio::fs::read(file)
            .await
            .with_context(|| format!("it did not write {} in time", file.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is malformed", file.display()))
    })
    .await
}

/// Tries until it succeeds or patience ends; the last error counts.
async fn until<T, F: Future<Output = anyhow::Result<T>>>(
    mut attempt: impl FnMut() -> F,
) -> anyhow::Result<T> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if tokio::time::Instant::now() >= deadline => return Err(error),
            // Other processes: there is no event to wait for.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
