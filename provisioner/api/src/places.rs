//! Where sites can live: regions, clusters, object stores, routers; and plans.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

/// A place that customers can choose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Region {
    /// As `id-jakarta`.
    pub name: String,
    /// For people.
    pub display_name: String,
    /// Where visitors of its sites arrive: what A and AAAA records of domains shall name.
    #[serde(default)]
    pub edge_addresses: Vec<String>,
    /// Sites whose current placement is here.
    #[serde(default)]
    pub n_sites: i64,
}

/// What a region is made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutRegion {
    /// For people.
    pub display_name: String,
    /// Where visitors of its sites arrive, as IP addresses; as before when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge_addresses: Option<Vec<String>>,
}

/// One Postgres server that holds databases of sites.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Cluster {
    /// Its id.
    pub id: Uuid,
    /// As `jakarta-1`.
    pub name: String,
    /// Where it is.
    pub region: String,
    /// Where instances connect: a host, or the directory of a unix socket.
    pub app_host: String,
    /// The port there.
    pub app_port: u16,
    /// Databases of sites that it may hold.
    pub max_databases: i32,
    /// Databases of sites that it holds.
    pub n_databases: i64,
    /// Whether new sites may be placed here.
    pub accepts_sites: bool,
    /// The site schema's version in its template; none until the template is ready.
    pub template_version: Option<i32>,
    /// When the provisioner last reached it.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_seen_at: Option<OffsetDateTime>,
    /// Why it could not be reached since.
    pub last_error: Option<String>,
    /// Where other clusters' servers reach it for replication, if not where it is administered.
    #[serde(default)]
    pub replication_host: Option<String>,
    /// The port there.
    #[serde(default)]
    pub replication_port: Option<u16>,
}

/// What a cluster is made from. Putting the same again changes nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutCluster {
    /// Where it is.
    pub region: String,
    /// A URL of a role that may create databases and roles and replicate. Stored sealed.
    pub admin_url: String,
    /// Where instances connect.
    pub app_host: String,
    /// The port there.
    pub app_port: u16,
    /// Databases of sites that it may hold.
    pub max_databases: i32,
    /// Whether new sites may be placed here.
    pub accepts_sites: bool,
    /// Where other clusters' servers reach it for replication, when sites move; the host and port of
    /// `admin_url` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication_host: Option<String>,
    /// The port there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication_port: Option<u16>,
}

/// One S3 endpoint and bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ObjectStore {
    /// Its id.
    pub id: Uuid,
    /// As `jakarta-files`.
    pub name: String,
    /// Where it is.
    pub region: String,
    /// The endpoint's URL.
    pub endpoint: String,
    /// The bucket.
    pub bucket: String,
    /// Whether new sites may be placed here.
    pub accepts_sites: bool,
    /// When the provisioner last reached it.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_seen_at: Option<OffsetDateTime>,
    /// Why it could not be reached since.
    pub last_error: Option<String>,
}

/// What an object store is made from. Putting the same again changes nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutObjectStore {
    /// Where it is.
    pub region: String,
    /// The endpoint's URL.
    pub endpoint: String,
    /// The bucket.
    pub bucket: String,
    /// An access key that reaches the whole bucket.
    pub access_key: String,
    /// Its secret. Stored sealed.
    pub secret_key: String,
    /// The endpoint's key administration: keys for single prefixes are put there
    /// (`PUT {url}/{access_key}`, see `ops/src/object_store`).
    pub key_admin_url: String,
    /// The bearer token of the key administration. Stored sealed.
    pub key_admin_token: String,
    /// Whether new sites may be placed here.
    pub accepts_sites: bool,
}

/// A router, as far as others must know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Router {
    /// As `router-id-jakarta`.
    #[serde(default)]
    pub name: String,
    /// Where it is.
    pub region: String,
    /// Where it takes TLS, as `127.0.0.1:8443`.
    pub https_address: String,
    /// Where it takes plain HTTP.
    pub http_address: String,
    /// Its private listener, as `http://127.0.0.1:9100`.
    pub admin_url: String,
    /// Where it takes connections over from other regions' routers; none when it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passthrough_address: Option<String>,
}

/// A set of limits. Absent limits are unlimited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// As `professional`.
    pub name: String,
    /// For people.
    pub display_name: String,
    /// Students with an account.
    pub max_students: Option<i32>,
    /// Instructors with an account.
    pub max_instructors: Option<i32>,
    /// Courses that are not archived.
    pub max_courses: Option<i32>,
    /// Bytes of files.
    pub storage_bytes: Option<i64>,
    /// Bytes of one file.
    pub max_upload_bytes: i64,
    /// Hostnames of its own.
    pub max_custom_domains: i32,
    /// How far back a site can be put, in seconds.
    pub restore_window_secs: i32,
}
