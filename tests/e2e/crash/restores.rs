//! `restore_site` and `undo_restore`: whatever happens on the way, a site has one home that may be written,
//! at most one that is kept, and of every try that was given up nothing.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use control_types::{
    SiteId,
    state::{OperationKind, OperationState, PlacementState},
};
use provisioner::{
    operations::{
        restore_site::RestoreSiteParams, restoring::Past, retire_placement::RetirePlacementParams,
        undo_restore::UndoRestoreParams,
    },
    site_database::SiteDatabaseName,
};
use serde_json::{Value, to_value};
use sqlx::{Connection as _, PgConnection};
use tests::Stack;
use uuid::Uuid;

use super::{
    bench::{Bench, REGION},
    previews::Carrier,
    script::{Scenario, few_scenarios},
};

/// A place of the site.
#[derive(Debug, sqlx::FromRow)]
struct Place {
    id: Uuid,
    state: PlacementState,
    database: String,
    follows: bool,
}

/// A site is put back, and that is undone, and what is kept is removed: again and again.
pub async fn every_step(stack: &Arc<Stack>) -> Result<()> {
    let bench = Bench::start(stack, "crash_restores").await?;
    let made = bench.create(0, &Scenario::plain("the site")).await?;
    let (site, _) = made.context("the site was not made")?;
    let past = bench.past(site).await?;
    let carrying = Carrier::begin(stack, &bench, past.cluster);
    let mut undos = few_scenarios(OperationKind::UndoRestore);
    for scenario in few_scenarios(OperationKind::RestoreSite) {
        if !bench.change(stack, OperationKind::RestoreSite, site, &scenario).await? {
            continue;
        }
        loop {
            let undo = undos.pop();
            let undo = undo.unwrap_or_else(|| Scenario::plain("undo_restore/plain"));
            if bench.change(stack, OperationKind::UndoRestore, site, &undo).await? {
                let plain = Scenario::plain("retire_placement/plain");
                bench.change(stack, OperationKind::RetirePlacement, site, &plain).await?;
                break;
            }
        }
    }
    ensure!(undos.is_empty(), "{} ways to undo were not tried", undos.len());
    carrying.abort();
    bench.end().await
}

impl Bench {
    /// Does one of them under this scenario. Whether it was done.
    async fn change(
        &self,
        stack: &Stack,
        kind: OperationKind,
        site: SiteId,
        scenario: &Scenario,
    ) -> Result<bool> {
        let changed = async {
            let (home, kept) = self.homes(stack, site).await?;
            let params = self.params_of(kind, site, kept).await?;
            let id = self.record(kind, site, params, scenario.rules.clone(), None).await?;
            let operation = self.ended(id).await?;
            let (state, error) = (operation.state, &operation.last_error);
            ensure!(state == scenario.ends, "ended {state}: {error:?}");
            self.all_fired(id)?;
            let is_done = state == OperationState::Succeeded;
            let wanted = match kind {
                _ if !is_done => (home, kept),
                OperationKind::RestoreSite => (id.0, Some(home)),
                OperationKind::UndoRestore => (kept.context("nothing was kept")?, Some(home)),
                _ => (home, None),
            };
            let found = self.homes(stack, site).await?;
            ensure!(found == wanted, "{found:?}, not {wanted:?}");
            self.serves(site).await?;
            Ok(is_done)
        };
        changed.await.with_context(|| scenario.name.clone())
    }

    async fn params_of(
        &self,
        kind: OperationKind,
        site: SiteId,
        kept: Option<Uuid>,
    ) -> Result<Value> {
        Ok(match kind {
            OperationKind::RestoreSite => {
                let past: Past = self.past(site).await?;
                to_value(RestoreSiteParams { past, preview: "none".to_owned() })?
            }
            OperationKind::UndoRestore => to_value(UndoRestoreParams {})?,
            OperationKind::RetirePlacement => to_value(RetirePlacementParams {
                placement: kept.context("nothing is kept")?,
                region: REGION.to_owned(),
            })?,
            other => bail!("{other} is none of these"),
        })
    }

    /// The place that serves the site, and the one that is kept; all others are gone.
    async fn homes(&self, stack: &Stack, site: SiteId) -> Result<(Uuid, Option<Uuid>)> {
        let pool = &self.world.db.pool;
        let places: Vec<Place> = sqlx::query_as(
            "select id, state, database_name as database, follows from placement
             where site_id = $1",
        )
        .bind(site.0)
        .fetch_all(pool)
        .await?;
        let left: i64 = sqlx::query_scalar(
            "select (select count(*) from restore_order) + (select count(*) from site_hold)",
        )
        .fetch_one(pool)
        .await?;
        ensure!(left == 0, "{left} orders or holds are left");
        let (mut homes, mut kept) = (Vec::new(), Vec::new());
        for place in &places {
            let checked = self.check(stack, place).await;
            checked.with_context(|| format!("{place:?}"))?;
            match place.state {
                PlacementState::Current => homes.push(place.id),
                PlacementState::Following => kept.push(place.id),
                _ => {}
            }
        }
        ensure!(homes.len() == 1 && kept.len() <= 1, "places: {places:?}");
        Ok((homes[0], kept.pop()))
    }

    async fn check(&self, stack: &Stack, place: &Place) -> Result<()> {
        let (name, cluster): (SiteDatabaseName, _) =
            (place.database.parse()?, self.cluster().await?);
        if place.state == PlacementState::Retired {
            ensure!(!cluster.exists(&name).await?, "its database is left");
            ensure!(!cluster.list_site_roles().await?.contains(&name), "its roles are left");
            return Ok(());
        }
        let is_home = place.state == PlacementState::Current;
        ensure!(is_home || place.state == PlacementState::Following, "it is not done with");
        ensure!(is_home || !place.follows, "it is kept, and follows");
        let state = cluster.authority(&name).await?.state;
        // A kept place of an undoing that was given up in turn.
        let fits =
            if is_home { state == "primary" } else { state == "retired" || state == "aborted" };
        ensure!(fits, "it says that it is {state}");
        let mut database =
            PgConnection::connect(&stack.admin_url(REGION, &place.database)?).await?;
        let (may_write, published): (bool, i64) = sqlx::query_as(
            "select pg_has_role(current_database(), current_database() || '_rw', 'member'),
                 (select count(*) from pg_publication)",
        )
        .fetch_one(&mut database)
        .await?;
        database.close().await?;
        ensure!(may_write == is_home, "whether the app may write: {may_write}");
        ensure!(published == 0, "its tables are published");
        Ok(())
    }
}
