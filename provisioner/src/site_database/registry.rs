//! The clusters that this provisioner has to do with, each with its connections.

use std::{collections::HashMap, sync::Arc};

use sqlx::PgPool;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::{ReplicationAddress, SiteDatabases};
use crate::{
    control_db::clusters::{self, PlaceError},
    secrets::Keys,
};

/// Every cluster by its id. Cheap to clone.
#[derive(Clone)]
pub struct Clusters {
    control: PgPool,
    keys: Keys,
    open: Arc<Mutex<HashMap<Uuid, Open>>>,
}

struct Open {
    admin_url: String,
    reached_at: Option<ReplicationAddress>,
    databases: SiteDatabases,
}

impl Clusters {
    /// The clusters in the control database.
    pub fn new(control: PgPool, keys: Keys) -> Self {
        Self { control, keys, open: Arc::default() }
    }

    /// The cluster with this id, as its row says now: one whose URL changed gets new connections.
    ///
    /// # Errors
    /// When there is none, the control database is down, or its secrets do not open.
    pub async fn get(&self, id: Uuid) -> Result<SiteDatabases, PlaceError> {
        let row = clusters::get(&self.control, &self.keys, id).await?;
        let reached_at = row.cluster.replication_host.zip(row.cluster.replication_port);
        let reached_at = reached_at.map(|(host, port)| ReplicationAddress { host, port });
        let mut open = self.open.lock().await;
        if let Some(known) = open.get(&id)
            && known.admin_url == row.admin_url.0
            && known.reached_at == reached_at
        {
            return Ok(known.databases.clone());
        }
        let (name, admin_url) = (&row.cluster.name, row.admin_url.0);
        let databases = SiteDatabases::reached_at(name, &admin_url, reached_at.clone())?;
        let replaced = open
            .insert(id, Open { admin_url, reached_at, databases: databases.clone() })
            .map(|old| old.databases);
        drop(open);
        if let Some(old) = replaced {
            // Those who still use it finish first.
            tokio::spawn(async move { old.close_connections().await });
        }
        Ok(databases)
    }
}
