//! Every cluster is reachable and has the current template; every object store is reachable. Each
//! run looks at all of them and notes what it saw, which is what the choice for a new site goes by.

use std::time::Duration;

use futures_util::future::join_all;
use provisioner_api::places::{Cluster, ObjectStore};
use sqlx::PgPool;

use crate::{
    control_db::{
        clusters::{self, Observation},
        object_stores,
    },
    site_database::Clusters,
    site_storage::ObjectStores,
};

/// How long an object store may take to answer.
const STORE_TIMEOUT: Duration = Duration::from_secs(3);

/// See the module.
pub struct ClusterReconciler {
    control: PgPool,
    clusters: Clusters,
    stores: ObjectStores,
}

impl ClusterReconciler {
    /// How often to run without being woken.
    pub const PERIOD: Duration = Duration::from_secs(10);

    /// The reconciler of all places in the control database.
    pub fn new(control: PgPool, clusters: Clusters, stores: ObjectStores) -> Self {
        Self { control, clusters, stores }
    }

    /// Looks at every place once, at all of them at the same time. What is wrong with a place is
    /// noted in its row and is no error.
    ///
    /// # Errors
    /// When the control database refuses.
    pub async fn run_once(&self) -> anyhow::Result<()> {
        let clusters = clusters::list(&self.control).await?;
        let stores = object_stores::list(&self.control).await?;
        let look_at_clusters =
            join_all(clusters.iter().map(|cluster| self.look_at_cluster(cluster)));
        let look_at_stores = join_all(stores.iter().map(|store| self.look_at_store(store)));
        let (seen_clusters, seen_stores) = tokio::join!(look_at_clusters, look_at_stores);
        seen_clusters.into_iter().chain(seen_stores).collect::<Result<(), sqlx::Error>>()?;
        Ok(())
    }

    async fn look_at_cluster(&self, cluster: &Cluster) -> Result<(), sqlx::Error> {
        let observation = match self.ensure_template(cluster).await {
            Ok(template_version) => Observation::Ready { template_version },
            Err(error) => Observation::Failing { error: format!("{error:#}") },
        };
        let error = match &observation {
            Observation::Ready { .. } => None,
            Observation::Failing { error } => Some(error.as_str()),
        };
        report("cluster", &cluster.name, cluster.last_error.as_deref(), error);
        clusters::set_observed(&self.control, cluster.id, &observation).await
    }

    async fn ensure_template(&self, cluster: &Cluster) -> anyhow::Result<u32> {
        let databases = self.clusters.get(cluster.id).await?;
        databases.probe().await?;
        Ok(databases.ensure_template().await?.version)
    }

    async fn look_at_store(&self, store: &ObjectStore) -> Result<(), sqlx::Error> {
        let error = self.probe(store).await.err().map(|error| format!("{error:#}"));
        report("object store", &store.name, store.last_error.as_deref(), error.as_deref());
        object_stores::set_observed(&self.control, store.id, error.as_deref()).await
    }

    async fn probe(&self, store: &ObjectStore) -> anyhow::Result<()> {
        let storage = self.stores.get(store.id).await?;
        match tokio::time::timeout(STORE_TIMEOUT, storage.probe()).await {
            Ok(outcome) => Ok(outcome?),
            Err(_) => anyhow::bail!("no answer within {} s", STORE_TIMEOUT.as_secs()),
        }
    }
}

/// Says in the log what changed, once.
fn report(kind: &str, name: &str, before: Option<&str>, now: Option<&str>) {
    match (before, now) {
        (None, Some(error)) => tracing::warn!("{kind} {name} cannot be used: {error}"),
        (Some(_), None) => tracing::info!("{kind} {name} can be used again"),
        _ => {}
    }
}
