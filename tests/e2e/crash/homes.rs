//! What must hold of a site's places when an operation has ended, whatever happened on the way: one
//! home that is written, perhaps an old one that follows it, and of all others nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use control_types::{
    InstanceId, SiteId,
    state::{PlacementState, SiteState},
};
use futures_util::TryStreamExt;
use provisioner::{
    control_db::{
        object_stores,
        placements::{self, Placement},
        sites,
    },
    site_database::SiteDatabaseName,
    site_storage::{Blob, SitePrefix},
};
use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};
use tests::Stack;

use super::{
    bench::{Bench, OTHER_REGION, REGION},
    nomad::{self, Ground, Nomad},
};

/// How long a server that was killed at the very end may take to accept connections.
const RECOVERY: Duration = Duration::from_secs(30);
/// How long a place that follows may take to have everything.
const CATCH_UP: Duration = Duration::from_secs(30);

/// The regions' servers, as their administrator reaches them.
#[derive(Clone)]
pub struct Servers(BTreeMap<&'static str, PgConnectOptions>);

impl Servers {
    /// Those of the platform that the stories share.
    pub fn of(stack: &Stack) -> Result<Self> {
        let options = |region| anyhow::Ok((region, stack.admin_url(region, "postgres")?.parse()?));
        Ok(Self([options(REGION)?, options(OTHER_REGION)?].into()))
    }

    /// A connection to a database. Who was killed at the very end may be recovering still.
    pub async fn connect(&self, region: &str, database: &str) -> Result<PgConnection> {
        let options = self.0.get(region).with_context(|| format!("no server in {region}"))?;
        let options = options.clone().database(database).disable_statement_logging();
        let began = Instant::now();
        loop {
            match options.connect().await {
                Err(error) if is_starting(&error) && began.elapsed() < RECOVERY => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                connected => return Ok(connected?),
            }
        }
    }
}

/// Whether a server is on its way up: its socket is not there yet, or it takes nobody (57P03).
fn is_starting(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(error, sqlx::Error::Io(_)) || code.as_deref() == Some("57P03")
}

/// The places of a site that are not retired.
pub struct Homes {
    /// The one that serves it; none of a site that was deleted.
    pub current: Option<Placement>,
    /// The one that it left and that follows.
    pub following: Option<Placement>,
}

/// Looks at everything.
pub async fn look(bench: &Bench, servers: &Servers, nomad: &mut Nomad) -> Result<Homes> {
    let (homes, places) = look_at_databases(&bench.ground, servers, nomad).await?;
    in_the_control_database(bench, nomad.id, &homes).await?;
    instances(bench, nomad.id, &places, &homes).await?;
    files(bench, nomad, &homes).await?;
    Ok(homes)
}

/// Looks at what is in the clusters: the databases, what lets one follow the other, the ledger.
pub async fn look_at_databases(
    ground: &Ground,
    servers: &Servers,
    nomad: &mut Nomad,
) -> Result<(Homes, Vec<Placement>)> {
    let places = places(ground, nomad.id).await?;
    let with = |state| {
        let mut found = places.iter().filter(move |place| place.state == state);
        (found.next().cloned(), found.count())
    };
    let (current, more_current) = with(PlacementState::Current);
    let (following, more_following) = with(PlacementState::Following);
    let (preparing, _) = with(PlacementState::Preparing);
    ensure!(preparing.is_none() && more_current == 0 && more_following == 0, "rows: {places:?}");
    let homes = Homes { current, following };
    for place in &places {
        in_the_cluster(servers, place, &homes).await.with_context(|| told(place))?;
    }
    ledger(servers, nomad, &homes).await?;
    if let Some(place) = &homes.current {
        ensure!(nomad.may_write(ground, place).await?, "the app may not write at its home");
    }
    if let Some(place) = &homes.following {
        ensure!(!nomad.may_write(ground, place).await?, "the app may write at its old home");
    }
    Ok((homes, places))
}

fn told(place: &Placement) -> String {
    format!("the {} place in {}, {}", place.state, place.region, place.database_name)
}

impl Homes {
    fn kept(&self) -> impl Iterator<Item = &Placement> {
        self.current.iter().chain(&self.following)
    }
}

async fn places(ground: &Ground, site: SiteId) -> Result<Vec<Placement>> {
    let mut connection = ground.control.acquire().await?;
    let ids: Vec<uuid::Uuid> =
        sqlx::query_scalar("select id from placement where site_id = $1 order by id")
            .bind(site.0)
            .fetch_all(&mut *connection)
            .await?;
    let mut places = Vec::new();
    for id in ids {
        places.extend(placements::get(&mut connection, id).await?);
    }
    Ok(places)
}

/// A place's name for streams.
fn stream(place: &Placement) -> String {
    place.database_name.replacen("s_", "m_", 1)
}

async fn strings(
    connection: &mut PgConnection,
    sql: &'static str,
    bound: &str,
) -> Result<Vec<String>> {
    let rows = sqlx::query_scalar(sql).persistent(false).bind(bound);
    Ok(rows.fetch_all(connection).await?)
}

/// Database, roles, slots, publications, subscriptions, and who may write.
async fn in_the_cluster(servers: &Servers, place: &Placement, homes: &Homes) -> Result<()> {
    let mut server = servers.connect(&place.region, "postgres").await?;
    let name = &place.database_name;
    let roles = strings(
        &mut server,
        "select rolname::text from pg_roles where starts_with(rolname, $1) order by 1",
        name,
    );
    let roles: BTreeSet<String> = roles.await?.into_iter().collect();
    let slots = "select slot_name::text from pg_replication_slots where database = $1";
    let slots = strings(&mut server, slots, name).await?;
    let subscriptions = strings(
        &mut server,
        "select subname || case when subenabled then '' else ' (not enabled)' end
         from pg_subscription join pg_database on pg_database.oid = subdbid where datname = $1",
        name,
    );
    let subscriptions = subscriptions.await?;
    let exists =
        strings(&mut server, "select datname::text from pg_database where datname = $1", name);
    let exists = !exists.await?.is_empty();
    server.close().await?;
    let leads = place.state == PlacementState::Current;
    let led = homes.following.as_ref().filter(|_| leads);
    if place.state == PlacementState::Retired {
        ensure!(!exists, "the database is left");
        ensure!(roles.is_empty(), "roles are left: {roles:?}");
        ensure!(
            slots.is_empty() && subscriptions.is_empty(),
            "{slots:?} {subscriptions:?} are left"
        );
        return Ok(());
    }
    let parsed: SiteDatabaseName = name.parse()?;
    let mut expected =
        BTreeSet::from([parsed.login().to_owned(), parsed.owner(), parsed.rw(), parsed.ro()]);
    expected.extend(led.map(|_| parsed.mover()));
    ensure!(roles == expected, "roles: {roles:?}");
    let expected: Vec<String> = led.map(stream).into_iter().collect();
    ensure!(slots == expected, "slots: {slots:?}, expected: {expected:?}");
    let expected: Vec<String> = if leads { Vec::new() } else { vec![stream(place)] };
    ensure!(subscriptions == expected, "subscriptions: {subscriptions:?}");
    ensure!(exists, "the database is gone");
    let mut database = servers.connect(&place.region, name).await?;
    let sql = "select pubname::text from pg_publication where $1 <> ''";
    let publications = strings(&mut database, sql, name).await?;
    ensure!(publications.len() == usize::from(led.is_some()), "publications: {publications:?}");
    let (state, generation, may_write, may_read): (String, i64, bool, bool) = sqlx::query_as(
        "select state::text, generation, pg_has_role($1, $2, 'member'), pg_has_role($1, $3, 'member')
         from platform.site_authority",
    )
    .bind(parsed.login())
    .bind(parsed.rw())
    .bind(parsed.ro())
    .fetch_one(&mut database)
    .await?;
    database.close().await?;
    if leads {
        ensure!(state == "primary" && may_write, "{state}, may write: {may_write}");
        ensure!(generation == place.generation.0, "is of generation {generation}");
    } else {
        ensure!(matches!(&*state, "retired" | "aborted" | "standby"), "{state}");
        ensure!(!may_write && may_read, "may write: {may_write}, may read: {may_read}");
    }
    Ok(())
}

/// Every row that was acknowledged is there once, at home and at the place that follows.
async fn ledger(servers: &Servers, nomad: &Nomad, homes: &Homes) -> Result<()> {
    let Some(home) = &homes.current else { return Ok(()) };
    let mut database = servers.connect(&home.region, &home.database_name).await?;
    let rows = nomad::rows(&mut database).await?;
    database.close().await?;
    let once: BTreeSet<i64> = rows.iter().copied().collect();
    ensure!(once.len() == rows.len(), "{} rows are there twice", rows.len() - once.len());
    let lost: Vec<_> = nomad.acknowledged.difference(&once).collect();
    ensure!(lost.is_empty(), "acknowledged rows are lost: {lost:?}");
    let strange: Vec<_> = once
        .iter()
        .filter(|row| !nomad.acknowledged.contains(row) && !nomad.unsure.contains(row))
        .collect();
    ensure!(strange.is_empty(), "rows that nobody wrote: {strange:?}");
    let Some(old) = &homes.following else { return Ok(()) };
    let mut database = servers.connect(&old.region, &old.database_name).await?;
    let follows = async {
        // The server does this by itself and tells nobody.
        while nomad::rows(&mut database).await? != rows {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    };
    let followed = tokio::time::timeout(CATCH_UP, follows).await;
    if followed.is_err() {
        let there = nomad::rows(&mut database).await?;
        anyhow::bail!("the old place does not follow: {} rows of {}", there.len(), rows.len());
    }
    followed.context("in time")??;
    database.close().await?;
    Ok(())
}

/// Certificates and their orders, holds, the site's state.
async fn in_the_control_database(bench: &Bench, site: SiteId, homes: &Homes) -> Result<()> {
    let pool = &bench.world.db.pool;
    let shown = sites::get(pool, site).await?.context("the site's row is gone")?;
    let expected = if homes.current.is_some() { SiteState::Active } else { SiteState::Deleted };
    ensure!(shown.state == expected, "the site is {}", shown.state);
    let regions: Vec<String> = sqlx::query_scalar(
        "select distinct region from certificate where site_id = $1
         union select region from certificate_order where site_id = $1 order by 1",
    )
    .bind(site.0)
    .fetch_all(pool)
    .await?;
    let expected: BTreeSet<&str> = homes.kept().map(|place| place.region.as_str()).collect();
    ensure!(regions.iter().map(String::as_str).eq(expected), "certificates are in {regions:?}");
    let held: i64 = sqlx::query_scalar("select count(*) from site_hold where site_id = $1")
        .bind(site.0)
        .fetch_one(pool)
        .await?;
    ensure!(held == 0, "the site is held");
    Ok(())
}

/// One at each place that is kept, and no others.
async fn instances(bench: &Bench, site: SiteId, places: &[Placement], homes: &Homes) -> Result<()> {
    let rows: Vec<(uuid::Uuid, uuid::Uuid)> =
        sqlx::query_as("select id, placement_id from instance where site_id = $1")
            .bind(site.0)
            .fetch_all(&bench.world.db.pool)
            .await?;
    let served: BTreeSet<_> = rows.iter().map(|(_, placement)| *placement).collect();
    let kept: BTreeSet<_> = homes.kept().map(|place| place.id).collect();
    ensure!(served == kept && rows.len() == kept.len(), "instances: {rows:?}, places: {kept:?}");
    let observed: Vec<InstanceId> =
        bench.runtime.observe().await?.into_iter().map(|seen| seen.id).collect();
    for (id, _) in &rows {
        ensure!(observed.contains(&InstanceId(*id)), "instance {id} is not there");
    }
    let gone = |place: &&Placement| place.state == PlacementState::Retired;
    for place in places.iter().filter(gone) {
        let is_left = observed.contains(&InstanceId(place.id));
        ensure!(!is_left, "an instance is left in {}", place.region);
    }
    Ok(())
}

/// The objects and the keys of every object store.
async fn files(bench: &Bench, nomad: &Nomad, homes: &Homes) -> Result<()> {
    let pool = &bench.world.db.pool;
    let prefix = SitePrefix::of(nomad.id);
    for row in object_stores::list(pool).await? {
        let store = bench.world.object_stores.get(row.id).await?;
        let keys: BTreeSet<String> = store
            .list_keys()
            .await?
            .into_iter()
            .filter(|key| key.prefix == prefix.to_string())
            .map(|key| key.access_key)
            .collect();
        let mut expected = BTreeSet::new();
        for place in homes.kept().filter(|place| place.object_store == row.id) {
            let secrets: provisioner::secrets::PlacementSecrets =
                bench.world.keys.open(&place.region, place.id, &place.sealed_secrets)?;
            expected.insert(secrets.access_key);
        }
        ensure!(keys == expected, "keys in {}: {keys:?}, expected: {expected:?}", row.name);
        if expected.is_empty() {
            ensure!(store.prefix_is_empty(&prefix).await?, "files are left in {}", row.name);
            continue;
        }
        let blobs: Vec<Blob> = store.blob_sizes(&prefix).try_collect().await?;
        let found: BTreeSet<[u8; 32]> = blobs.iter().map(|blob| blob.sha256).collect();
        ensure!(found.is_subset(&nomad.files), "strange files are in {}", row.name);
        let is_home = homes.current.as_ref().is_some_and(|place| place.object_store == row.id);
        ensure!(!is_home || found == nomad.files, "files are missing in {}", row.name);
    }
    Ok(())
}

/// How many there are at a place.
pub async fn n_files(bench: &Bench, place: &Placement) -> Result<usize> {
    let store = bench.world.object_stores.get(place.object_store).await?;
    let blobs: Vec<Blob> = store.blob_sizes(&SitePrefix::of(place.site)).try_collect().await?;
    Ok(blobs.len())
}
