//! Rows of `object_store`, and which of them takes a new site.

use provisioner_api::places::{ObjectStore, PutObjectStore};
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use super::clusters::PlaceError;
use crate::{
    secrets::{Keys, ObjectStoreAdmin},
    site_storage::SiteStorage,
};

/// An object store with what administers it.
#[derive(Clone)]
pub struct OpenObjectStore {
    /// What everybody may know.
    pub store: ObjectStore,
    /// Secret.
    pub admin: ObjectStoreAdmin,
}

/// Makes the object store called `name`, or brings it to what is asked. Putting the same again
/// writes nothing.
///
/// # Errors
/// When the region is unknown, a field is out of range, or the store holds sites of its region.
pub async fn put(
    control: &PgPool,
    keys: &Keys,
    name: &str,
    put: &PutObjectStore,
) -> Result<ObjectStore, PlaceError> {
    let admin = ObjectStoreAdmin {
        access_key: put.access_key.clone(),
        secret_key: put.secret_key.clone(),
        key_admin_url: put.key_admin_url.clone(),
        key_admin_token: put.key_admin_token.clone(),
    };
    // The same check as at use, so that a bad URL is refused where it was given.
    SiteStorage::new(name, &put.endpoint, &put.bucket, &admin)?;
    let mut transaction = control.begin().await?;
    sqlx::query!("select pg_advisory_xact_lock(hashtext('put object store'), hashtext($1))", name)
        .execute(&mut *transaction)
        .await?;
    let known =
        sqlx::query!("select id, region, sealed_admin from object_store where name = $1", name)
            .fetch_optional(&mut *transaction)
            .await?;
    let id = known.as_ref().map_or_else(Uuid::now_v7, |row| row.id);
    // A value sealed twice differs, so an unchanged one is kept.
    let kept = known.filter(|row| {
        keys.open::<ObjectStoreAdmin>(&row.region, id, &row.sealed_admin)
            .is_ok_and(|known| known == admin && row.region == put.region)
    });
    let sealed = match kept {
        Some(row) => row.sealed_admin,
        None => super::clusters::seal_for(&mut transaction, keys, &put.region, id, &admin).await?,
    };
    sqlx::query!(
        "insert into object_store (id, name, region, endpoint, bucket, sealed_admin, accepts_sites)
         values ($1, $2, $3, $4, $5, $6, $7)
         on conflict (name) do update set
             region = excluded.region, endpoint = excluded.endpoint, bucket = excluded.bucket,
             sealed_admin = excluded.sealed_admin, accepts_sites = excluded.accepts_sites,
             -- Another endpoint is not observed yet.
             last_seen_at = case when (object_store.endpoint, object_store.bucket)
                                      = (excluded.endpoint, excluded.bucket)
                                 then object_store.last_seen_at end
         where (object_store.region, object_store.endpoint, object_store.bucket,
                object_store.sealed_admin, object_store.accepts_sites)
             is distinct from (excluded.region, excluded.endpoint, excluded.bucket,
                excluded.sealed_admin, excluded.accepts_sites)",
        id,
        name,
        put.region,
        put.endpoint,
        put.bucket,
        sealed,
        put.accepts_sites,
    )
    .execute(&mut *transaction)
    .await
    .map_err(|error| PlaceError::of_write("object store", name, &put.region, error))?;
    transaction.commit().await?;
    Ok(get(control, keys, id).await?.store)
}

/// Notes whether an object store could be reached: nothing, or why not.
///
/// # Errors
/// When the control database refuses.
pub async fn set_observed(
    control: &PgPool,
    id: Uuid,
    error: Option<&str>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update object_store set last_error = $2,
             last_seen_at = case when $2::text is null then now() else last_seen_at end
         where id = $1",
        id,
        error,
    )
    .execute(control)
    .await?;
    Ok(())
}

/// All object stores, by region and name.
///
/// # Errors
/// When the control database refuses.
pub async fn list(control: &PgPool) -> Result<Vec<ObjectStore>, sqlx::Error> {
    let mut connection = control.acquire().await?;
    let rows = rows(&mut connection, None, None).await?;
    Ok(rows.into_iter().map(|row| row.into_store().0).collect())
}

/// The object store with this id and its secrets.
///
/// # Errors
/// When there is none, or its secrets do not open.
pub async fn get(control: &PgPool, keys: &Keys, id: Uuid) -> Result<OpenObjectStore, PlaceError> {
    let mut connection = control.acquire().await?;
    let row = rows(&mut connection, Some(id), None).await?.pop();
    let (store, sealed) = row.ok_or(PlaceError::Absent { kind: "object store", id })?.into_store();
    let admin = keys.open(&store.region, id, &sealed)?;
    Ok(OpenObjectStore { store, admin })
}

/// Why no object store takes a new site.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoObjectStore {
    /// None at all.
    #[error("region {0} has no object store; register one")]
    None(String),
    /// None that accepts sites.
    #[error("no object store of region {0} accepts new sites")]
    NotAccepting(String),
    /// Those that do cannot be reached.
    #[error("object store {name} of region {region} cannot be used: {error}")]
    Unreachable {
        /// The region.
        region: String,
        /// One that cannot be reached.
        name: String,
        /// Why.
        error: String,
    },
}

impl NoObjectStore {
    /// Whether waiting may help.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// The part of the platform that is at fault, as problem details name it.
    pub fn component(&self) -> String {
        match self {
            Self::None(region) | Self::NotAccepting(region) => format!("region {region}"),
            Self::Unreachable { name, .. } => format!("object store {name}"),
        }
    }
}

/// The object store of `region` that takes a new site: reachable; the first by name.
///
/// # Errors
/// When the control database refuses. Inside: why none takes it.
pub async fn choose_for_site(
    connection: &mut PgConnection,
    region: &str,
) -> Result<Result<ObjectStore, NoObjectStore>, sqlx::Error> {
    let rows = rows(connection, None, Some(region)).await?;
    let stores = rows.into_iter().map(|row| row.into_store().0).collect();
    Ok(choose(region, stores))
}

fn choose(region: &str, stores: Vec<ObjectStore>) -> Result<ObjectStore, NoObjectStore> {
    if stores.is_empty() {
        return Err(NoObjectStore::None(region.to_owned()));
    }
    let mut refusal = NoObjectStore::NotAccepting(region.to_owned());
    for store in stores.into_iter().filter(|store| store.accepts_sites) {
        let error = match (&store.last_error, store.last_seen_at) {
            (Some(error), _) => error.clone(),
            (None, None) => "it was not reached yet; try again soon".to_owned(),
            (None, Some(_)) => return Ok(store),
        };
        let region = region.to_owned();
        refusal = NoObjectStore::Unreachable { region, name: store.name, error };
    }
    Err(refusal)
}

struct ObjectStoreRow {
    id: Uuid,
    name: String,
    region: String,
    endpoint: String,
    bucket: String,
    sealed_admin: Vec<u8>,
    accepts_sites: bool,
    last_seen_at: Option<OffsetDateTime>,
    last_error: Option<String>,
}

impl ObjectStoreRow {
    fn into_store(self) -> (ObjectStore, Vec<u8>) {
        let store = ObjectStore {
            id: self.id,
            name: self.name,
            region: self.region,
            endpoint: self.endpoint,
            bucket: self.bucket,
            accepts_sites: self.accepts_sites,
            last_seen_at: self.last_seen_at,
            last_error: self.last_error,
        };
        (store, self.sealed_admin)
    }
}

async fn rows(
    connection: &mut PgConnection,
    id: Option<Uuid>,
    region: Option<&str>,
) -> Result<Vec<ObjectStoreRow>, sqlx::Error> {
    sqlx::query_as!(
        ObjectStoreRow,
        "select id, name, region, endpoint, bucket, sealed_admin, accepts_sites, last_seen_at,
                last_error
         from object_store
         where ($1::uuid is null or id = $1) and ($2::text is null or region = $2)
         order by region, name",
        id,
        region,
    )
    .fetch_all(connection)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(name: &str, accepts_sites: bool, last_error: Option<&str>) -> ObjectStore {
        ObjectStore {
            id: Uuid::now_v7(),
            name: name.to_owned(),
            region: "id-jakarta".to_owned(),
            endpoint: "http://127.0.0.1:9000".to_owned(),
            bucket: "files".to_owned(),
            accepts_sites,
            last_seen_at: Some(OffsetDateTime::UNIX_EPOCH),
            last_error: last_error.map(str::to_owned),
        }
    }

    #[test]
    fn the_first_that_is_reachable_and_accepts_takes_the_site() {
        let stores = || {
            vec![store("a", false, None), store("b", true, Some("down")), store("c", true, None)]
        };
        assert_eq!(choose("r", stores()).map(|s| s.name), Ok("c".to_owned()));
        let mut down = stores();
        down.pop();
        assert_eq!(choose("r", down).expect_err("none fits").component(), "object store b");
        assert!(matches!(choose("r", vec![]), Err(NoObjectStore::None(_))));
        let closed = vec![store("a", false, None)];
        assert!(matches!(choose("r", closed), Err(NoObjectStore::NotAccepting(_))));
        let new = ObjectStore { last_seen_at: None, ..store("n", true, None) };
        assert!(choose("r", vec![new]).expect_err("not seen yet").is_retryable());
    }
}
