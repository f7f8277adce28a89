//! A site that goes to and fro, with a ledger: rows that its app's login role writes all the time, in
//! whichever of the site's databases lets it, and files. Whatever was acknowledged must be there.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use control_types::{SiteId, Slug};
use provisioner::{
    control_db::{
        object_stores,
        placements::{self, Placement},
    },
    secrets::{Keys, PlacementSecrets},
    site_storage::SitePrefix,
};
use s3::{Bucket, Region, creds::Credentials};
use sha2::{Digest as _, Sha256};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool, postgres::PgConnectOptions};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Between two rows of the ledger.
const PACE: Duration = Duration::from_millis(25);
/// What Postgres says to who may not write.
const NO_RIGHT: &str = "42501";

/// What a site's places are found in.
pub struct Ground {
    /// The control database.
    pub control: PgPool,
    /// The regions' keys.
    pub keys: Keys,
}

/// The site.
pub struct Nomad {
    pub id: SiteId,
    pub slug: Slug,
    /// The next row's number.
    next: i64,
    /// Rows that were acknowledged.
    pub acknowledged: BTreeSet<i64>,
    /// Rows of which nobody knows: the connection broke.
    pub unsure: BTreeSet<i64>,
    /// The files, by the SHA-256 of their bytes.
    pub files: BTreeSet<[u8; 32]>,
}

/// What became of a row.
#[derive(Debug, PartialEq, Eq)]
enum Written {
    Acknowledged,
    Refused,
    Unsure,
}

impl Nomad {
    /// Nothing was written yet.
    pub const fn new(id: SiteId, slug: Slug) -> Self {
        Self {
            id,
            slug,
            next: 1,
            acknowledged: BTreeSet::new(),
            unsure: BTreeSet::new(),
            files: BTreeSet::new(),
        }
    }

    /// Writes one row after the other until `stop`, and knocks at every place of the site, so that it
    /// finds one that should not let it in. Then one more.
    pub async fn write_until(&mut self, ground: &Ground, stop: CancellationToken) -> Result<()> {
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut doors: Vec<(uuid::Uuid, PgConnection)> = Vec::new();
        loop {
            tokio::select! {
                _ = pace.tick() => {}
                () = stop.cancelled() => break,
            }
            if !self.knock(&mut doors).await {
                doors = match self.doors(ground).await {
                    // The control database may be away for a while, as every other part.
                    Err(error) if error.is::<sqlx::Error>() => Vec::new(),
                    doors => doors?,
                };
            }
        }
        for (_, door) in doors {
            let _ = door.close().await;
        }
        Ok(())
    }

    /// Whether somebody let it in.
    async fn knock(&mut self, doors: &mut [(uuid::Uuid, PgConnection)]) -> bool {
        let row = self.next;
        for at in 0..doors.len() {
            match write(&mut doors[at].1, row).await {
                Written::Acknowledged => {
                    self.acknowledged.insert(row);
                    self.next += 1;
                    // Who let it in is asked first the next time.
                    doors.swap(0, at);
                    return true;
                }
                Written::Refused => {}
                Written::Unsure => {
                    self.unsure.insert(row);
                    self.next += 1;
                    return false;
                }
            }
        }
        false
    }

    /// Connections to all places of the site that take one.
    async fn doors(&self, ground: &Ground) -> Result<Vec<(uuid::Uuid, PgConnection)>> {
        let mut connection = ground.control.acquire().await?;
        let places = placements::kept(&mut connection, self.id).await?;
        drop(connection);
        let mut doors = Vec::new();
        for place in places {
            if let Ok(door) = login(ground, &place).await? {
                doors.push((place.id, door));
            }
        }
        Ok(doors)
    }

    /// One row at this place; whether it was let in.
    pub async fn may_write(&mut self, ground: &Ground, place: &Placement) -> Result<bool> {
        let mut door = login(ground, place).await?.context("the place takes no connection")?;
        let written = write(&mut door, self.next).await;
        door.close().await?;
        match written {
            Written::Acknowledged => {
                self.acknowledged.insert(self.next);
                self.next += 1;
                Ok(true)
            }
            Written::Refused => Ok(false),
            Written::Unsure => anyhow::bail!("the connection broke"),
        }
    }

    /// A new file at the place that serves the site: the object, then its rows.
    pub async fn upload(&mut self, ground: &Ground) -> Result<()> {
        let mut connection = ground.control.acquire().await?;
        let place = placements::current(&mut connection, self.id).await?.context("nowhere")?;
        drop(connection);
        let bytes = format!("file {} of {}", self.files.len(), self.slug).into_bytes();
        let sha256: [u8; 32] = Sha256::digest(&bytes).into();
        let (pool, keys) = (&ground.control, &ground.keys);
        let open = object_stores::get(pool, keys, place.object_store).await?;
        let region = Region::Custom {
            region: provisioner::site_storage::SIGNING_REGION.to_owned(),
            endpoint: open.store.endpoint.clone(),
        };
        let (access, secret) = (&open.admin.access_key, &open.admin.secret_key);
        let credentials = Credentials::new(Some(access), Some(secret), None, None, None)?;
        let bucket = Bucket::new(&open.store.bucket, region, credentials)?.with_path_style();
        let key = format!("{}/blob/{}", SitePrefix::of(self.id), hex::encode(sha256));
        let answer = bucket.put_object(&key, &bytes).await?;
        ensure!(answer.status_code() == 200, "{key}: {}", answer.status_code());
        let mut door = login(ground, &place).await?.context("the place takes no connection")?;
        sqlx::query(
            "with new as (insert into blob (sha256, size_bytes) values ($1, $2) returning sha256)
             insert into file (blob_sha256, name, media_type) select sha256, 'a.txt', 'text/plain'
             from new",
        )
        .bind(sha256.as_slice())
        .bind(i64::try_from(bytes.len())?)
        .execute(&mut door)
        .await?;
        door.close().await?;
        self.files.insert(sha256);
        Ok(())
    }
}

/// The app's login role at a place; inside the error when it is not let in.
pub async fn login(
    ground: &Ground,
    place: &Placement,
) -> Result<Result<PgConnection, sqlx::Error>> {
    let keys = &ground.keys;
    let secrets: PlacementSecrets = keys.open(&place.region, place.id, &place.sealed_secrets)?;
    let cluster: (String, i32) =
        sqlx::query_as("select app_host, app_port from cluster where id = $1")
            .bind(place.cluster)
            .fetch_one(&ground.control)
            .await?;
    let options = PgConnectOptions::new_without_pgpass()
        .host(&cluster.0)
        .port(u16::try_from(cluster.1)?)
        .username(&place.database_name)
        .database(&place.database_name)
        .password(&secrets.database_password)
        .disable_statement_logging();
    Ok(options.connect().await)
}

async fn write(door: &mut PgConnection, row: i64) -> Written {
    let outcome = sqlx::query(
        "insert into audit_event (action, detail) values ('test.row', jsonb_build_object('n', $1))",
    )
    .bind(row)
    .execute(door)
    .await;
    match outcome {
        Ok(_) => Written::Acknowledged,
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(NO_RIGHT) => {
            Written::Refused
        }
        Err(_) => Written::Unsure,
    }
}

/// The rows of the ledger that a database has, in order, each as often as it is there.
pub async fn rows(connection: &mut PgConnection) -> Result<Vec<i64>, sqlx::Error> {
    sqlx::query_scalar(
        "select (detail ->> 'n')::bigint from audit_event where action = 'test.row' order by 1",
    )
    .persistent(false)
    .fetch_all(connection)
    .await
}
