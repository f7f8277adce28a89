//! Proofs that sites can be put back. A site that was brought out of its backups, as a preview that is for
//! nobody, is looked at: it opens, people and courses are in it, its files are there.

use std::{collections::BTreeMap, time::Duration};

use control_types::{Upstream, state::OperationState};
use time::OffsetDateTime;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use crate::{
    backups,
    control_db::{
        cluster_backups, instances, placements,
        placements::Placement,
        restore_proofs::{Found, Made},
    },
    site_database::SiteDatabaseName,
    site_storage::SitePrefix,
    world::World,
};

/// How long its instance may take to wake and answer.
const OPENS: Duration = Duration::from_secs(20);

/// What is in it, or what is wrong.
///
/// # Errors
/// When the control database does not answer.
pub async fn look(world: &World, made: &Made) -> Result<Result<Found, String>, sqlx::Error> {
    if made.ended != OperationState::Succeeded {
        let why = made.error.clone().unwrap_or_else(|| format!("it was {}", made.ended));
        return Ok(Err(format!("it could not be brought back: {why}")));
    }
    let pool = &world.db.pool;
    let mut connection = pool.acquire().await?;
    let then = placements::current(&mut connection, made.preview).await?;
    let now = placements::current(&mut connection, made.of).await?;
    drop(connection);
    let (Some(then), Some(now)) = (then, now) else {
        return Ok(Err("the site or what was brought back is gone".to_owned()));
    };
    let at_risk = at_risk(world, &now).await?;
    let address = instances::address(pool, then.id).await?;
    let looked = async {
        opens(address.as_deref()).await?;
        let files = files(world, made, &then).await.map_err(|error| format!("{error:#}"))??;
        let counts = counts(world, &then, &now).await.map_err(|error| format!("{error:#}"))?;
        let count = |noun: &str| counts.get(noun).copied().unwrap_or_default();
        // Every site has an administrator.
        if count("accounts") == 0 {
            return Err("nobody is in it".to_owned());
        }
        Ok(Found {
            took_ms: made.took_ms,
            at_risk_secs: at_risk,
            accounts: count("accounts"),
            courses: count("courses"),
            files,
        })
    };
    Ok(looked.await)
}

async fn at_risk(world: &World, now: &Placement) -> Result<i64, sqlx::Error> {
    let known = cluster_backups::known(&world.db.pool, now.cluster).await?;
    let shown = known.map(|known| backups::shown(known, OffsetDateTime::now_utc()));
    let secs = shown.and_then(|shown| shown.at_risk_secs).unwrap_or_default();
    Ok(i64::try_from(secs).unwrap_or(i64::MAX))
}

/// Its instance wakes and is ready.
async fn opens(address: Option<&str>) -> Result<(), String> {
    let address = address.and_then(|address| address.parse::<Upstream>().ok());
    let address = address.ok_or_else(|| "no instance listens".to_owned())?;
    let asked = async {
        match address {
            Upstream::Unix(path) => ask(UnixStream::connect(path).await?).await,
            Upstream::Tcp(address) => ask(TcpStream::connect(address).await?).await,
        }
    };
    match timeout(OPENS, asked).await {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err("its instance is not ready".to_owned()),
        Ok(Err(error)) => Err(format!("its instance does not answer: {error}")),
        Err(_) => Err(format!("its instance does not answer within {} s", OPENS.as_secs())),
    }
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> std::io::Result<bool> {
    const READY: &[u8] = b"HTTP/1.1 200 ";
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: proof\r\nconnection: close\r\n\r\n").await?;
    let mut first = [0; READY.len()];
    stream.read_exact(&mut first).await?;
    Ok(first == READY)
}

/// How many contents its files have. All of them must be there, in their size.
async fn files(
    world: &World,
    made: &Made,
    then: &Placement,
) -> anyhow::Result<Result<i64, String>> {
    let name: SiteDatabaseName = then.database_name.parse()?;
    let cluster = world.clusters.get(then.cluster).await?;
    let rows = cluster.blobs(&name, None).await?;
    let count = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    let store = world.object_stores.get(then.object_store).await?;
    let expected: Vec<_> = rows.iter().map(|row| (row.sha256, row.size_bytes)).collect();
    let missing = store.missing_blobs(&SitePrefix::of(made.of), expected.into_iter()).await?;
    Ok(match missing.first() {
        None => Ok(count),
        Some(first) => Err(format!(
            "{} of {count} files are not in the object store, among them {}",
            missing.len(),
            hex::encode(first.sha256)
        )),
    })
}

/// How many of each kind of things are in it. Reads all of them.
async fn counts(
    world: &World,
    then: &Placement,
    now: &Placement,
) -> anyhow::Result<BTreeMap<String, i64>> {
    let (cluster_then, cluster_now) =
        (world.clusters.get(then.cluster).await?, world.clusters.get(now.cluster).await?);
    let (then, now) = (then.database_name.parse()?, now.database_name.parse()?);
    let nouns = cluster_now.then_and_now(&now, &cluster_then, &then, 0).await?;
    let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    Ok(nouns.into_iter().map(|noun| (noun.noun, count(noun.then))).collect())
}
