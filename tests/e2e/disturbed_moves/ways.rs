//! Ways that can be cut, put between the processes of a platform before anything happens there.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sqlx::postgres::PgConnectOptions;
use tests::{Stack, places, way::Way};

/// How long the provisioner may take to come up on another way.
const START: Duration = Duration::from_secs(30);

/// Between whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Between {
    /// Clusters' servers that follow, to the region's server.
    Streams,
    /// The provisioner to the region's server.
    Operations,
    /// Instances to the region's server.
    Instances,
    /// Everybody to the region's files.
    Files,
}

/// The ways of a platform.
pub struct Ways {
    regional: BTreeMap<(Between, String), Way>,
    /// The provisioner to the control database.
    pub control: Way,
}

impl Ways {
    /// Puts them there.
    pub async fn put(stack: &Stack) -> Result<Self> {
        let mut regional = BTreeMap::new();
        let beside = stack.data_dir().with_file_name("ways");
        std::fs::create_dir(&beside)?;
        let api = stack.api()?;
        for cluster in api.clusters().await? {
            let region = cluster.region.clone();
            let mut put = places::cluster(stack, &cluster)?;
            let server = sockets(&put.admin_url)?;
            let mut open = |between: Between| -> Result<PathBuf> {
                let at = beside.join(format!("{between:?}-{region}").to_lowercase());
                let way = Way::to_postgres(&server, cluster.app_port, &at, Duration::ZERO)?;
                regional.insert((between, region.clone()), way);
                Ok(at)
            };
            put.admin_url = elsewhere(&put.admin_url, &server, &open(Between::Operations)?)?;
            put.app_host = open(Between::Instances)?.to_string_lossy().into_owned();
            put.replication_host = Some(open(Between::Streams)?.to_string_lossy().into_owned());
            put.replication_port = Some(cluster.app_port);
            api.put_cluster(&cluster.name, &put).await?;
        }
        for store in api.object_stores().await? {
            let server = places::object_store_address(stack, &store.region)?;
            let (way, at) = Way::to_tcp(server).await?;
            let put = places::object_store(stack, &store.region, at)?;
            regional.insert((Between::Files, store.region), way);
            api.put_object_store(&store.name, &put).await?;
        }
        let control = to_control_database(stack, &beside.join("control")).await?;
        places::ready(&stack.api()?).await?;
        Ok(Self { regional, control })
    }

    /// That of a region.
    pub fn of(&self, between: Between, region: &str) -> Result<&Way> {
        let way = self.regional.get(&(between, region.to_owned()));
        way.with_context(|| format!("no way {between:?} in {region}"))
    }
}

/// The provisioner starts anew, with another way to its database.
async fn to_control_database(stack: &Stack, at: &Path) -> Result<Way> {
    let path = stack.data_dir().join("config/provisioner.json");
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
    let url = config["control_database_url"].as_str().context("no URL")?.to_owned();
    let options: PgConnectOptions = url.parse()?;
    let server = sockets(&url)?;
    let way = Way::to_postgres(&server, options.get_port(), at, Duration::ZERO)?;
    config["control_database_url"] = elsewhere(&url, &server, at)?.into();
    std::fs::write(&path, serde_json::to_string(&config)?)?;
    let old = stack.process("provisioner")?;
    kill_process(Pid::from_raw(old).context("no process")?, Signal::KILL)?;
    let begun = Instant::now();
    let is_new = || stack.process("provisioner").is_ok_and(|new| new != old);
    while !is_new() || stack.api()?.ready().await.is_err() {
        ensure!(begun.elapsed() < START, "the provisioner does not come back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(way)
}

/// Where the socket of a URL lies.
fn sockets(url: &str) -> Result<PathBuf> {
    let options: PgConnectOptions = url.parse()?;
    Ok(options.get_socket().context("no unix socket in the URL")?.clone())
}

/// The URL with another directory for the socket.
fn elsewhere(url: &str, from: &Path, to: &Path) -> Result<String> {
    let encoded = |path: &Path| path.to_string_lossy().replace('/', "%2F");
    let (from, to) = (encoded(from), encoded(to));
    ensure!(url.contains(&from), "{from} is not in the URL");
    Ok(url.replace(&from, &to))
}
