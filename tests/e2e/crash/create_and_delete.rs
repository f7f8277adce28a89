//! `create_site` and `delete_site`: a site is there whole, or nothing of it is.

use anyhow::{Context, Result, ensure};
use control_types::{
    OperationId, SiteId, Slug,
    state::{OperationKind, OperationState, SiteState},
};
use futures_util::{StreamExt, stream};
use provisioner::{
    control_db::{clusters, object_stores, sites},
    operations::{create_site::CreateSiteParams, delete_site::DeleteSiteParams},
    site_database::{SiteDatabaseName, SiteDatabases},
    site_storage::SitePrefix,
};
use tests::Stack;

use super::{
    bench::{Bench, PARALLEL, REGION},
    script::{Scenario, scenarios},
};

impl Bench {
    /// Creates a site under this scenario. The site's id when it is there at the end.
    pub async fn create(
        &self,
        number: usize,
        scenario: &Scenario,
    ) -> Result<Option<(SiteId, Slug)>> {
        let site = SiteId::generate();
        let slug: Slug = format!("crash-{number}").parse()?;
        let params = serde_json::to_value(CreateSiteParams {
            region: REGION.to_owned(),
            plan: "professional".to_owned(),
            name: slug.to_string(),
            default_language: "en".to_owned(),
            accounts: Vec::new(),
            sealed_invitation: None,
        })?;
        let kind = OperationKind::CreateSite;
        let id = self.record(kind, site, params, scenario.rules.clone(), Some(&slug)).await?;
        let operation = self.ended(id).await?;
        ensure!(
            operation.state == scenario.ends,
            "ended {}: {:?}",
            operation.state,
            operation.last_error
        );
        self.all_fired(id)?;
        if operation.state == OperationState::Succeeded {
            self.serves(site).await?;
            return Ok(Some((site, slug)));
        }
        self.is_gone(site, SiteDatabaseName::of_placement(id.0)).await?;
        Ok(None)
    }

    /// Deletes a site under this scenario; when that was undone, deletes it for good.
    pub async fn delete(
        &self,
        site: SiteId,
        created_by: OperationId,
        scenario: &Scenario,
    ) -> Result<()> {
        let params = serde_json::to_value(DeleteSiteParams { grace_period_secs: 0 })?;
        let kind = OperationKind::DeleteSite;
        let id = self.record(kind, site, params.clone(), scenario.rules.clone(), None).await?;
        let operation = self.ended(id).await?;
        ensure!(
            operation.state == scenario.ends,
            "ended {}: {:?}",
            operation.state,
            operation.last_error
        );
        self.all_fired(id)?;
        if operation.state != OperationState::Succeeded {
            self.serves(site).await?;
            let id = self.record(kind, site, params, Vec::new(), None).await?;
            let state = self.ended(id).await?.state;
            ensure!(state == OperationState::Succeeded, "the second deletion ended {state}");
        }
        self.is_gone(site, SiteDatabaseName::of_placement(created_by.0)).await
    }

    pub async fn serves(&self, site: SiteId) -> Result<()> {
        let shown =
            sites::get(&self.world.db.pool, site).await?.context("the site's row is gone")?;
        ensure!(shown.state == SiteState::Active, "the site is {}", shown.state);
        let placement = shown.placement.context("no placement")?;
        let name: SiteDatabaseName = placement.database.parse()?;
        let cluster = self.cluster().await?;
        cluster.check_isolation(&name).await?;
        let instance = shown.instance.context("no instance")?;
        let observed = self.runtime.observe().await?;
        ensure!(observed.iter().any(|seen| seen.id == instance.id), "the instance is not there");
        Ok(())
    }

    pub async fn cluster(&self) -> Result<SiteDatabases> {
        let rows = clusters::list(&self.world.db.pool).await?;
        Ok(self.world.clusters.get(rows.first().context("no cluster")?.id).await?)
    }

    /// No row that claims something, no database, no role, no key, no file, no process.
    pub async fn is_gone(&self, site: SiteId, name: SiteDatabaseName) -> Result<()> {
        let pool = &self.world.db.pool;
        let shown = sites::get(pool, site).await?.context("the record is gone")?;
        ensure!(shown.state == SiteState::Deleted, "the site is {}", shown.state);
        ensure!(shown.domains.is_empty(), "hostnames are left: {:?}", shown.domains);
        ensure!(shown.placement.is_none(), "a placement is left");
        let left: i64 = sqlx::query_scalar(
            "select (select count(*) from instance where site_id = $1)
                  + (select count(*) from certificate where site_id = $1)
                  + (select count(*) from placement where site_id = $1 and state <> 'retired')",
        )
        .bind(site.0)
        .fetch_one(pool)
        .await?;
        ensure!(left == 0, "{left} rows are left");
        let cluster = self.cluster().await?;
        ensure!(!cluster.exists(&name).await?, "the database is left");
        ensure!(!cluster.list_site_roles().await?.contains(&name), "roles are left");
        let stores = object_stores::list(pool).await?;
        let store = stores.first().context("no object store")?;
        let store = self.world.object_stores.get(store.id).await?;
        let prefix = SitePrefix::of(site);
        ensure!(store.prefix_is_empty(&prefix).await?, "files are left");
        let keys = store.list_keys().await?;
        ensure!(keys.iter().all(|key| key.prefix != prefix.to_string()), "a key is left");
        Ok(())
    }
}

/// Sites are made, and those are deleted.
pub async fn every_step(stack: &Stack) -> Result<()> {
    let bench = Bench::start(stack, "crash").await?;
    let creates: Vec<(usize, Scenario)> =
        scenarios(OperationKind::CreateSite).into_iter().enumerate().collect();
    let made: Vec<Result<Option<(SiteId, Slug)>>> = stream::iter(&creates)
        .map(|(number, scenario)| async {
            let made = bench.create(*number, scenario).await;
            made.with_context(|| scenario.name.clone())
        })
        .buffer_unordered(PARALLEL)
        .collect()
        .await;
    let mut sites = Vec::new();
    for made in made {
        sites.extend(made?);
    }
    // Each deletion needs a site; those that the creations left come first.
    let deletes = scenarios(OperationKind::DeleteSite);
    for number in sites.len()..deletes.len() {
        sites.extend(bench.create(1000 + number, &Scenario::plain("plain")).await?);
    }
    let extra = sites.len().saturating_sub(deletes.len());
    let all = deletes.into_iter().chain((0..extra).map(|_| Scenario::plain("delete")));
    let outcomes: Vec<Result<()>> = stream::iter(sites.iter().zip(all))
        .map(|((site, _), scenario)| {
            let bench = &bench;
            async move {
                let created_by: OperationId = sqlx::query_scalar(
                    "select id from operation where site_id = $1 and kind = 'create_site'",
                )
                .bind(site.0)
                .fetch_one(&bench.world.db.pool)
                .await?;
                let gone = bench.delete(*site, created_by, &scenario).await;
                gone.with_context(|| scenario.name.clone())
            }
        })
        .buffer_unordered(PARALLEL)
        .collect()
        .await;
    outcomes.into_iter().collect::<Result<()>>()?;
    ensure!(bench.runtime.observe().await?.is_empty(), "an instance is left");
    bench.end().await
}
