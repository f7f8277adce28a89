//! From nothing to everything, in order. Each step says how it went.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::ensure;
use control_types::{seal::KeyRing, state::DomainState};
use provisioner_api::{client::Client, places::PutObjectStore};

use super::{
    UpArgs,
    authority::Authority,
    control_database, demo,
    platform::{self, Platform},
    ports,
    postgres::{Binaries, Cluster, Purpose},
    progress::step,
    ready::{Api, Ready, SiteReady},
    supervisor::wait_ready,
};
use crate::{
    data_dir::{DataDir, secret_in, write_private},
    keeper,
    object_store::ObjectStore,
};

mod keepers;
mod provisioner;
mod routers;
mod wait;

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

/// Starts everything and returns where it is.
///
/// # Errors
/// Of the first component that fails, with its name and log. What was started before it runs on:
/// the caller stops the platform.
pub async fn start(platform: &Platform, args: &UpArgs) -> anyhow::Result<Ready> {
    let data = &platform.data;
    let binaries = Binaries::find(data).await?;
    let pgbackrest = keeper::program().await?;
    let beside = super::binaries_beside_this()?;
    let router_ports = ports::for_routers(args.https_port, args.http_port, REGIONS.len())?;
    let authority = Authority::of(data);
    step("local certificate authority, keys, tokens", None, async {
        authority.ensure()?;
        REGIONS.iter().try_for_each(|region| ensure_key_ring(data, region.name))?;
        secret_in(&token_file(data)).map(drop)
    })
    .await?;
    let (control, clusters) = start_clusters(platform, &binaries, &pgbackrest).await?;
    let regions: Vec<_> = REGIONS.iter().map(|region| region.name).collect();
    let urls = step("control database", Some(&control.log), async {
        control_database::ensure(&control, data, &regions).await
    })
    .await?;
    let stores = start_object_stores(platform, &authority).await?;
    let api = provisioner::start(platform, &beside, &urls, &authority, args).await?;
    let token = secret_in(&token_file(data))?;
    let client = Client::new(&api, &token)?;
    step("regions, clusters, object stores registered", Some(&data.log("provisioner")), async {
        provisioner::register(&client, &clusters, &stores).await
    })
    .await?;
    let regions = routers::start(platform, &beside, &urls, &router_ports, &client, args).await?;
    step("places ready for sites", Some(&data.log("provisioner")), async {
        provisioner::places_ready(&client).await
    })
    .await?;
    keepers::start(platform, &beside, &api, &client, &clusters).await?;
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
    pgbackrest: &Path,
) -> anyhow::Result<(Cluster, Vec<Cluster>)> {
    let data = &platform.data;
    let control = Cluster::of(data, "control")?;
    let clusters = REGIONS.iter().map(|region| Cluster::of(data, region.name));
    let clusters = clusters.collect::<anyhow::Result<Vec<_>>>()?;
    let for_sites = clusters.iter().map(|cluster| {
        let archive_command = keeper::archive_command(pgbackrest, &data.keeper(&cluster.name));
        (cluster, Purpose::Sites { archive_command })
    });
    let starts = std::iter::once((&control, Purpose::Control)).chain(for_sites);
    let starts =
        starts.map(|(cluster, purpose)| start_cluster(platform, binaries, cluster, purpose));
    futures_util::future::try_join_all(starts).await?;
    Ok((control, clusters))
}

async fn start_cluster(
    platform: &Platform,
    binaries: &Binaries,
    cluster: &Cluster,
    purpose: Purpose,
) -> anyhow::Result<()> {
    let name = format!("Postgres {} for {}", binaries.major, cluster.name);
    step(&name, Some(&cluster.log), async {
        cluster.ensure(&purpose, binaries, &platform.data.secrets()).await?;
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

async fn start_object_stores(
    platform: &Platform,
    authority: &Authority,
) -> anyhow::Result<Vec<StorePlan>> {
    let tls = authority.server_config()?;
    let mut plans = Vec::new();
    for region in REGIONS {
        let directory = platform.data.object_store(region.name);
        let name = format!("object store for {}", region.name);
        let log = platform.data.log("ta3lem");
        let store = step(&name, Some(&log), async {
            ObjectStore::start(&directory, BUCKET, Arc::clone(&tls)).await
        })
        .await?;
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

async fn sites(client: &Client) -> anyhow::Result<Vec<SiteReady>> {
    let mut sites = Vec::new();
    for site in client.sites().await? {
        let serves = site.domains.iter().filter(|domain| domain.state == DomainState::Active);
        let urls: Vec<_> = serves.map(|domain| domain.url.clone()).collect();
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
