//! `move_site`, `move_site_back` and `retire_placement`: sites go to and fro through every failure, with
//! a writer in each. A few sites do it all: each takes the next scenario that fits where it is.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result, bail, ensure};
use control_types::{
    OperationId,
    state::{OperationKind, OperationState},
};
use futures_util::future::join_all;
use provisioner::operations::{
    delete_site::DeleteSiteParams,
    move_site::{MoveSiteParams, Pace},
    move_site_back::MoveSiteBackParams,
    retire_placement::RetirePlacementParams,
};
use serde_json::{Value, to_value};
use tests::Stack;
use tokio_util::sync::CancellationToken;

use super::{
    bench::{Bench, OTHER_REGION, PARALLEL, REGION},
    homes::{self, Homes, Servers},
    hurdles::Hurdle,
    nomad::Nomad,
    script::{Scenario, few_scenarios, scenarios},
};

/// When it is set, everything happens to every step alone, as to those of the other kinds: to those
/// with one of these in their names, as `move_site/switch,retire`; `/` is all of them, some 220
/// operations and a quarter of an hour.
const EACH: &str = "CRASH_EACH";

/// A scenario of one of the three kinds.
pub struct Case {
    kind: OperationKind,
    scenario: Scenario,
    hurdle: Option<Hurdle>,
}

/// What is still to be done, by kind.
struct Queue {
    moves: VecDeque<Case>,
    back: VecDeque<Case>,
    retire: VecDeque<Case>,
}

impl Queue {
    fn of(kind: OperationKind) -> VecDeque<Case> {
        let case = |scenario| Case { kind, scenario, hurdle: None };
        let hurdled =
            |hurdle: Hurdle| Case { kind, scenario: hurdle.scenario(kind), hurdle: Some(hurdle) };
        let has_switch = kind != OperationKind::RetirePlacement;
        let hurdles = Hurdle::ALL.into_iter().filter(|_| has_switch).map(hurdled);
        let of_steps = match std::env::var_os(EACH) {
            Some(names) => {
                let names = names.to_string_lossy();
                let is_asked =
                    |scenario: &Scenario| names.split(',').any(|name| scenario.name.contains(name));
                scenarios(kind).into_iter().filter(is_asked).collect()
            }
            None => few_scenarios(kind),
        };
        // Those that take long come first, so that nobody waits for one at the end.
        hurdles.chain(of_steps.into_iter().map(case)).collect()
    }

    fn all() -> Self {
        Self {
            moves: Self::of(OperationKind::MoveSite),
            back: Self::of(OperationKind::MoveSiteBack),
            retire: Self::of(OperationKind::RetirePlacement),
        }
    }

    /// The next for a site at one place, or for one that has left another; none when all is done.
    fn next(&mut self, has_left: bool) -> Option<Case> {
        let plain = |kind: OperationKind| {
            let scenario = Scenario::plain(&format!("{kind}/plain"));
            Some(Case { kind, scenario, hurdle: None })
        };
        let is_more = !self.moves.is_empty() || !self.back.is_empty() || !self.retire.is_empty();
        if has_left {
            let next = self.back.pop_front().or_else(|| self.retire.pop_front());
            next.or_else(|| plain(OperationKind::RetirePlacement).filter(|_| is_more))
        } else {
            let next = self.moves.pop_front();
            next.or_else(|| plain(OperationKind::MoveSite).filter(|_| is_more))
        }
    }
}

/// Everything that the sites share.
struct Steppe<'a> {
    bench: &'a Bench,
    servers: Servers,
    queue: Mutex<Queue>,
    n_sites: AtomicUsize,
}

impl Steppe<'_> {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn settle(&self) -> Result<Nomad> {
        let number = 5000 + self.n_sites.fetch_add(1, Ordering::Relaxed);
        let made = self.bench.create(number, &Scenario::plain("create")).await?;
        let (id, slug) = made.context("no site was made")?;
        Ok(Nomad::new(id, slug))
    }

    /// Takes scenarios until there are none. What went wrong.
    async fn wander(&self) -> Vec<anyhow::Error> {
        let mut wrong = Vec::new();
        'sites: loop {
            let mut nomad = match self.settle().await {
                Ok(nomad) => nomad,
                Err(error) => {
                    wrong.push(error.context("a site to begin with"));
                    return wrong;
                }
            };
            let mut homes = match homes::look(self.bench, &self.servers, &mut nomad).await {
                Ok(homes) => homes,
                Err(error) => {
                    wrong.push(error.context("a new site"));
                    return wrong;
                }
            };
            loop {
                let Some(case) = self.queue().next(homes.following.is_some()) else { break };
                let name = case.scenario.name.clone();
                let began = std::time::Instant::now();
                match self.run(&mut nomad, &homes, case).await {
                    Ok(after) => homes = after,
                    Err(error) => {
                        let site = nomad.slug.clone();
                        wrong.push(error.context(format!("{name}, site {site}")));
                        // The site may be in any state: another one goes on.
                        continue 'sites;
                    }
                }
                println!("{name}: {:?}", began.elapsed());
            }
            if let Err(error) = self.delete(&mut nomad).await {
                wrong.push(error.context("the deletion at the end"));
            }
            return wrong;
        }
    }

    /// One scenario. Where the site is then.
    async fn run(&self, nomad: &mut Nomad, before: &Homes, case: Case) -> Result<Homes> {
        let Case { kind, scenario, hurdle } = case;
        nomad.upload(&self.bench.ground).await.context("a new file")?;
        let home = before.current.as_ref().context("the site is nowhere")?;
        let params = params(kind, before)?;
        let (id, site) = (OperationId::generate(), nomad.id);
        let n_files = match &before.following {
            Some(old) => homes::n_files(self.bench, old).await?,
            None => 0,
        };
        let watch = match hurdle {
            Some(hurdle) => Some(hurdle.put(self.bench, &self.servers, id, before)?),
            None => None,
        };
        self.bench.record_as(id, kind, site, params, scenario.rules.clone(), None).await?;
        let stop = CancellationToken::new();
        let ends = async {
            let watched = async {
                match watch {
                    Some(watch) => watch.await,
                    None => Ok(()),
                }
            };
            let (ended, watched) = tokio::join!(self.bench.ended(id), watched);
            stop.cancel();
            watched.context("the hurdle")?;
            ended
        };
        let (ended, written) =
            tokio::join!(ends, nomad.write_until(&self.bench.ground, stop.clone()));
        let operation = ended?;
        written.context("the ledger")?;
        let (state, error) = (operation.state, operation.last_error);
        ensure!(state == scenario.ends, "ended {state}: {error:?}");
        self.bench.all_fired(id)?;
        let after = homes::look(self.bench, &self.servers, nomad).await?;
        let is_done = state == OperationState::Succeeded;
        let now = after.current.as_ref().context("the site is nowhere")?;
        let has_moved = is_done && kind != OperationKind::RetirePlacement;
        ensure!((now.id != home.id) == has_moved, "the site is in {}", now.region);
        let follows = match kind {
            OperationKind::MoveSite => is_done,
            OperationKind::RetirePlacement => !is_done,
            _ => true,
        };
        ensure!(after.following.is_some() == follows, "a place that follows: {}", !follows);
        let record: Option<String> =
            sqlx::query_scalar("select document from site_record where operation_id = $1")
                .bind(id.0)
                .fetch_optional(&self.bench.world.db.pool)
                .await?;
        ensure!(record.is_some() == is_done, "what was signed: {record:?}");
        if let (Some(record), OperationKind::RetirePlacement) = (record, kind) {
            let removed = serde_json::from_str::<Value>(&record)?["removed"].take();
            ensure!(removed["objects"] == n_files, "{n_files} files were there, says: {removed}");
            let hostnames = removed["certificates"].as_array().map(Vec::len);
            ensure!(hostnames == Some(1), "one certificate was there, says: {removed}");
        }
        Ok(after)
    }

    /// With the place that follows, if there is one.
    async fn delete(&self, nomad: &mut Nomad) -> Result<()> {
        let params = to_value(DeleteSiteParams { grace_period_secs: 0 })?;
        let kind = OperationKind::DeleteSite;
        let id = self.bench.record(kind, nomad.id, params, Vec::new(), None).await?;
        let state = self.bench.ended(id).await?.state;
        ensure!(state == OperationState::Succeeded, "ended {state}");
        let homes = homes::look(self.bench, &self.servers, nomad).await?;
        ensure!(homes.current.is_none() && homes.following.is_none(), "places are left");
        Ok(())
    }
}

fn params(kind: OperationKind, before: &Homes) -> Result<Value> {
    let home = before.current.as_ref().context("the site is nowhere")?;
    let other = if home.region == REGION { OTHER_REGION } else { REGION };
    let region = other.to_owned();
    let old = || before.following.as_ref().context("no place follows");
    Ok(match kind {
        OperationKind::MoveSite => to_value(MoveSiteParams {
            region,
            cluster: None,
            not_before: None,
            when_quiet: false,
            pace: Pace::default(),
        })?,
        OperationKind::MoveSiteBack => {
            to_value(MoveSiteBackParams { region: old()?.region.clone() })?
        }
        OperationKind::RetirePlacement => {
            to_value(RetirePlacementParams { placement: old()?.id, region: old()?.region.clone() })?
        }
        other => bail!("{other} is no move"),
    })
}

/// All of them.
pub async fn every_step(stack: &Stack) -> Result<()> {
    let bench = Bench::start(stack, "crash_moves").await?;
    let steppe = Steppe {
        bench: &bench,
        servers: Servers::of(stack)?,
        queue: Mutex::new(Queue::all()),
        n_sites: AtomicUsize::new(0),
    };
    let wrong: Vec<_> =
        join_all((0..PARALLEL).map(|_| steppe.wander())).await.into_iter().flatten().collect();
    let told: Vec<_> = wrong.iter().map(|error| format!("{error:#}")).collect();
    let left = bench.runtime.observe().await?;
    bench.end().await?;
    ensure!(told.is_empty(), "{} scenarios went wrong:\n{}", told.len(), told.join("\n"));
    ensure!(left.is_empty(), "an instance is left");
    Ok(())
}
