//! `create_preview`: a preview is there whole, or nothing of it is. In the place of a keeper, which is
//! killed in stories of its own, somebody carries the site's database over as it is now.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use control_types::{
    OperationId, SiteId,
    state::{OperationKind, OperationState},
};
use provisioner::{
    control_db::{clusters, object_stores, restore_orders, sites},
    operations::{create_preview::CreatePreviewParams, restoring::Past},
    site_database::SiteDatabaseName,
};
use provisioner_api::restores::{RestoreOrder, RestoreProgress};
use sqlx::PgPool;
use tests::Stack;
use time::OffsetDateTime;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::{
    bench::{Bench, REGION},
    script::{Scenario, few_scenarios},
};

/// The carrier looks again this soon.
const LOOK: std::time::Duration = std::time::Duration::from_millis(50);

/// Previews of one site, one after the other.
pub async fn every_step(stack: &Arc<Stack>) -> Result<()> {
    let bench = Bench::start(stack, "crash_previews").await?;
    let made = bench.create(0, &Scenario::plain("the site")).await?;
    let (site, _) = made.context("the site was not made")?;
    let params = CreatePreviewParams { past: bench.past(site).await? };
    let carrying = Carrier::begin(stack, &bench, params.past.cluster);
    for (number, scenario) in few_scenarios(OperationKind::CreatePreview).iter().enumerate() {
        let outcome = bench.preview(number, &params, scenario).await;
        outcome.with_context(|| scenario.name.clone())?;
    }
    carrying.abort();
    bench.end().await
}

impl Bench {
    /// The site as it is now.
    pub async fn past(&self, site: SiteId) -> Result<Past> {
        let pool = &self.world.db.pool;
        let clusters = clusters::list(pool).await?;
        let cluster = clusters.first().context("no cluster")?;
        let stores = object_stores::list(pool).await?;
        let shown = sites::get(pool, site).await?.context("no site")?;
        Ok(Past {
            of: site,
            moment: OffsetDateTime::now_utc(),
            region: REGION.to_owned(),
            cluster: cluster.id,
            cluster_name: cluster.name.clone(),
            database: shown.placement.context("no placement")?.database.parse()?,
            object_store: stores.first().context("no object store")?.id,
        })
    }

    async fn preview(
        &self,
        number: usize,
        params: &CreatePreviewParams,
        scenario: &Scenario,
    ) -> Result<()> {
        let (site, slug) = (SiteId::generate(), format!("preview-crash-{number}").parse()?);
        let (kind, json) = (OperationKind::CreatePreview, serde_json::to_value(params)?);
        let id = self.record(kind, site, json, scenario.rules.clone(), Some(&slug)).await?;
        let operation = self.ended(id).await?;
        let (state, error) = (operation.state, &operation.last_error);
        ensure!(state == scenario.ends, "ended {state}: {error:?}");
        self.all_fired(id)?;
        ensure!(restore_orders::progress(&self.world.db.pool, id).await?.is_none(), "the order");
        if state == OperationState::Succeeded {
            self.serves(site).await?;
            return self.delete(site, id, &Scenario::plain("delete")).await;
        }
        self.is_gone(site, SiteDatabaseName::of_placement(id.0)).await
    }
}

/// Does what orders ask for.
pub struct Carrier {
    stack: Arc<Stack>,
    control: PgPool,
    cluster: Uuid,
}

impl Carrier {
    /// Does it until it is stopped.
    pub fn begin(stack: &Arc<Stack>, bench: &Bench, cluster: Uuid) -> JoinHandle<Result<()>> {
        let control = bench.world.db.pool.clone();
        tokio::spawn(Self { stack: Arc::clone(stack), control, cluster }.run())
    }

    async fn run(self) -> Result<()> {
        loop {
            for order in restore_orders::of_cluster(&self.control, self.cluster).await? {
                let said = restore_orders::progress(&self.control, OperationId(order.id)).await?;
                if !matches!(said, Some((RestoreProgress::Done { .. }, _))) {
                    let progress = match self.carry(&order).await {
                        Ok(()) => RestoreProgress::Done { last_commit_at: None, parts: Vec::new() },
                        Err(error) => RestoreProgress::Failed { reason: format!("{error:#}") },
                    };
                    restore_orders::put_progress(&self.control, self.cluster, order.id, &progress)
                        .await?;
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn carry(&self, order: &RestoreOrder) -> Result<()> {
        let from = self.stack.admin_url(REGION, &order.database)?;
        let to = self.stack.admin_url(REGION, &order.into)?;
        let pipe = "pg_dump --format=custom --no-owner --no-privileges \"$0\" \
                    | pg_restore --no-owner --no-privileges --single-transaction --role=\"$2\" \
                      --dbname=\"$1\"";
        let output = tokio::process::Command::new("bash")
            .args(["-o", "pipefail", "-c", pipe, &from, &to, &order.owner])
            .output()
            .await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}
