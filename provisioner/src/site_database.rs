//! The databases and roles of sites on one cluster: made, filled, closed and dropped, as the
//! cluster's administrator. Every verb may be run again after any failure, also after a crash in
//! the middle of it, and none touches anything but what is named `s_<32 hexadecimal digits>` (and
//! the templates).
//!
//! What a site has in its cluster:
//!
//! ```text
//! database  s_…        a clone of the template of the site schema; PUBLIC may nothing
//! role      s_…_owner  owns the database and all in it; nobody logs in with it
//! role      s_…_rw     reads and writes `public`, reads `platform`; nobody logs in with it
//! role      s_…_ro     reads; nobody logs in with it
//! role      s_…        what an instance logs in with: owns nothing, has its rights by being in rw
//! role      s_…_mover  while another cluster's database follows: reads, and replicates
//! ```
//!
//! So `REVOKE s_…_rw FROM s_…` stops the writes of sessions that are already there: the fence of a
//! move. For that reason no verb gives the membership back to a login role that exists.

use std::{sync::Arc, time::Duration};

use sqlx::{
    AssertSqlSafe, ConnectOptions, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::sync::{Mutex, Semaphore};

mod name;
mod pace;
mod error;
mod template;
mod roles;
mod database;
mod adoption;
mod contents;
mod isolation;
mod registry;
mod replication;
mod copy_status;
mod copy_repair;
mod fence;
mod switch;
mod comparison;
mod then_and_now;
mod catalog;
mod readiness;
mod files;
mod revocations;

pub use adoption::Adopted;
pub use comparison::{Comparison, Difference, Read, Reading};
pub use contents::{Authority, Limits};
pub use copy_status::CopyStatus;
pub use database::SiteDatabase;
pub use error::{Exhausted, SiteDatabaseError, is_lost};
pub use fence::{Attempt, AuthorityState};
pub use files::BlobRow;
pub use name::{NotASiteDatabase, SiteDatabaseName};
pub use readiness::Readiness;
pub use registry::Clusters;
pub use replication::{Beginning, Mover, ReplicationAddress};
pub use roles::Rights;
pub use switch::{Fenced, LATELY, Opened, SequenceValue, Switch};
pub use template::Template;

/// Connections that a provisioner keeps to a cluster at most.
const MAX_CONNECTIONS: u32 = 4;
/// After this long without work they are closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Databases made at once: more only make each of them slower.
const CREATED_AT_ONCE: usize = 2;
/// The oldest server that will do, as `server_version_num` tells it.
const OLDEST_SERVER: i32 = 150_000;

/// One cluster, as its administrator. Cheap to clone; connects when it has something to do.
#[derive(Clone)]
pub struct SiteDatabases(Arc<Inner>);

struct Inner {
    cluster: String,
    options: PgConnectOptions,
    /// Where other clusters' servers reach this one, if not where its administrator does.
    reached_at: Option<ReplicationAddress>,
    /// To the maintenance database.
    pool: PgPool,
    creating: Semaphore,
    /// A drop makes the server write everything out: one at a time.
    dropping: Mutex<()>,
}

impl SiteDatabases {
    /// The cluster called `cluster`, administered at `admin_url` (its database, or `postgres`, is
    /// the one for maintenance). Nothing is connected yet.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn new(cluster: &str, admin_url: &str) -> Result<Self, SiteDatabaseError> {
        Self::reached_at(cluster, admin_url, None)
    }

    /// Like [`SiteDatabases::new`], for a cluster that other clusters' servers reach elsewhere than
    /// its administrator does.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn reached_at(
        cluster: &str,
        admin_url: &str,
        reached_at: Option<ReplicationAddress>,
    ) -> Result<Self, SiteDatabaseError> {
        let wrong_url = || SiteDatabaseError::AdminUrl { cluster: cluster.to_owned() };
        // The parser of the options takes any scheme.
        if !["postgres://", "postgresql://"].iter().any(|scheme| admin_url.starts_with(scheme)) {
            return Err(wrong_url());
        }
        let options: PgConnectOptions = admin_url.parse().map_err(|_| wrong_url())?;
        let database = options.get_database().unwrap_or("postgres").to_owned();
        let options = options
            .database(&database)
            .application_name("ta3lem-provisioner")
            .options([
                ("statement_timeout", "120s"),
                ("lock_timeout", "10s"),
                // What was told to a database in a move must not be lost when its server crashes.
                ("synchronous_commit", "on"),
            ])
            .disable_statement_logging();
        let pool = PgPoolOptions::new()
            .max_connections(MAX_CONNECTIONS)
            .idle_timeout(IDLE_TIMEOUT)
            .acquire_timeout(CONNECT_TIMEOUT)
            .connect_lazy_with(options.clone());
        Ok(Self(Arc::new(Inner {
            cluster: cluster.to_owned(),
            options,
            reached_at,
            pool,
            creating: Semaphore::new(CREATED_AT_ONCE),
            dropping: Mutex::new(()),
        })))
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.0.cluster
    }

    /// Whether the cluster answers and will do, asked on a new connection.
    ///
    /// # Errors
    /// Why not.
    pub async fn probe(&self) -> Result<(), SiteDatabaseError> {
        let mut connection = self.connect(None).await?;
        let (number, text): (i32, String) = sqlx::query_as(
            "select current_setting('server_version_num')::int, current_setting('server_version')",
        )
        .fetch_one(&mut connection)
        .await
        .map_err(|error| self.sort("tell its version", error))?;
        let _ = sqlx::Connection::close(connection).await;
        if number < OLDEST_SERVER {
            return Err(SiteDatabaseError::TooOld { cluster: self.0.cluster.clone(), found: text });
        }
        Ok(())
    }

    /// Closes the connections of this value and its clones.
    pub async fn close_connections(&self) {
        self.0.pool.close().await;
    }

    /// A connection of its own, into a site's database or the one for maintenance.
    async fn connect(
        &self,
        name: Option<&SiteDatabaseName>,
    ) -> Result<PgConnection, SiteDatabaseError> {
        match name {
            Some(name) => self.connect_into(name.as_str()).await,
            None => self.connect_with(&self.0.options).await,
        }
    }

    async fn connect_into(&self, database: &str) -> Result<PgConnection, SiteDatabaseError> {
        self.connect_with(&self.0.options.clone().database(database)).await
    }

    async fn connect_with(
        &self,
        options: &PgConnectOptions,
    ) -> Result<PgConnection, SiteDatabaseError> {
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, options.connect()).await;
        let outcome = connecting.unwrap_or_else(|_| Err(no_answer()));
        outcome.map_err(|error| self.sort("accept a connection", error))
    }

    /// Runs statements that need no answer on the maintenance database: one round trip and, if
    /// there are several, one transaction.
    async fn run(&self, action: &'static str, sql: String) -> Result<(), SiteDatabaseError> {
        match sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.0.pool).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.explain(action, error).await),
        }
    }

    fn sort(&self, action: &'static str, error: sqlx::Error) -> SiteDatabaseError {
        SiteDatabaseError::sort(&self.0.cluster, action, error)
    }

    /// Like [`Self::sort`]. A pool that waited in vain does not say why: connecting once more does.
    async fn explain(&self, action: &'static str, error: sqlx::Error) -> SiteDatabaseError {
        if matches!(error, sqlx::Error::PoolTimedOut)
            && let Err(reason) = self.connect(None).await
        {
            return reason;
        }
        self.sort(action, error)
    }
}

impl std::fmt::Debug for SiteDatabases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SiteDatabases({})", self.0.cluster)
    }
}

fn no_answer() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(
        std::io::ErrorKind::TimedOut,
        format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()),
    ))
}
