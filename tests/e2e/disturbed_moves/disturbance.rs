//! What happens to the platform in the middle of a move, and when.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use control_types::state::OperationKind;
use provisioner::{control_db::placements::Placement, operations::planned};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tests::Stack;

use super::ways::{Between, Ways};

/// When.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moment {
    /// A step has begun.
    Begun(String),
    /// The source is not written any more.
    Fenced,
    /// The target is the site.
    Open,
}

/// Who.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Provisioner,
    ControlDatabase,
    SourceServer,
    TargetServer,
    SourceRouter,
    TargetRouter,
    SourceInstance,
    TargetInstance,
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The provisioner to the control database.
    Control,
    /// To the source's region.
    Source(Between),
    /// To the target's region.
    Target(Between),
}

/// What.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// By SIGKILL. Whoever keeps it running starts it again.
    Killed(Who),
    /// For some seconds, by SIGSTOP.
    Paused(Who),
    /// For some seconds; then what was under way arrives.
    Cut(Which),
    /// For some seconds; then every connection is lost.
    Torn(Which),
}

/// How long an interruption lasts: longer than a switch waits for anything.
const INTERRUPTION: Duration = Duration::from_secs(4);
const WHO: [Who; 8] = [
    Who::Provisioner,
    Who::ControlDatabase,
    Who::SourceServer,
    Who::TargetServer,
    Who::SourceRouter,
    Who::TargetRouter,
    Who::SourceInstance,
    Who::TargetInstance,
];
const WHICH: [Which; 9] = [
    Which::Control,
    Which::Source(Between::Streams),
    Which::Source(Between::Operations),
    Which::Source(Between::Instances),
    Which::Source(Between::Files),
    Which::Target(Between::Streams),
    Which::Target(Between::Operations),
    Which::Target(Between::Instances),
    Which::Target(Between::Files),
];

/// One thing that happens in one operation.
#[derive(Clone, Debug)]
pub struct Disturbance {
    pub kind: OperationKind,
    pub what: What,
    pub when: Moment,
}

impl Disturbance {
    fn new(kind: OperationKind, what: What, when: Moment) -> Self {
        Self { kind, what, when }
    }

    /// For people, and to choose by.
    pub fn name(&self) -> String {
        let when = match &self.when {
            Moment::Begun(step) => step.clone(),
            moment => format!("{moment:?}"),
        };
        format!("{}/{when}/{:?}", self.kind, self.what)
    }

    /// One for everything that can happen, mostly where it hurts most.
    pub fn some() -> Vec<Self> {
        use Between::{Files, Instances, Operations, Streams};
        use What::{Cut, Killed, Paused, Torn};
        let there = |what, step: &str| {
            Self::new(OperationKind::MoveSite, what, Moment::Begun(step.to_owned()))
        };
        let back = |what, when| Self::new(OperationKind::MoveSiteBack, what, when);
        let begun = || Moment::Begun("switch".to_owned());
        vec![
            Self::new(OperationKind::MoveSite, Killed(Who::Provisioner), Moment::Fenced),
            back(Killed(Who::Provisioner), begun()),
            back(Killed(Who::SourceServer), begun()),
            back(Killed(Who::TargetServer), Moment::Fenced),
            back(Killed(Who::Provisioner), Moment::Open),
            back(Killed(Who::SourceServer), Moment::Fenced),
            back(Killed(Who::TargetServer), Moment::Open),
            back(Killed(Who::ControlDatabase), Moment::Fenced),
            back(Killed(Who::SourceRouter), begun()),
            back(Killed(Who::TargetRouter), Moment::Open),
            back(Killed(Who::SourceInstance), begun()),
            back(Killed(Who::TargetInstance), Moment::Open),
            back(Paused(Who::Provisioner), Moment::Fenced),
            back(Paused(Who::ControlDatabase), Moment::Fenced),
            back(Paused(Who::SourceServer), begun()),
            back(Paused(Who::TargetServer), Moment::Fenced),
            back(Paused(Who::SourceRouter), begun()),
            back(Cut(Which::Source(Streams)), begun()),
            back(Cut(Which::Source(Operations)), Moment::Fenced),
            back(Torn(Which::Target(Operations)), Moment::Fenced),
            back(Torn(Which::Control), Moment::Fenced),
            back(Cut(Which::Source(Instances)), begun()),
            there(Torn(Which::Source(Streams)), "await_copy"),
            there(Cut(Which::Target(Files)), "copy_files"),
        ]
    }

    /// Everything at every moment.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for kind in [OperationKind::MoveSite, OperationKind::MoveSiteBack] {
            let begun = planned(kind).steps.into_iter().map(Moment::Begun);
            for when in begun.chain([Moment::Fenced, Moment::Open]) {
                let whom = WHO.into_iter().flat_map(|who| [What::Killed(who), What::Paused(who)]);
                let ways =
                    WHICH.into_iter().flat_map(|which| [What::Cut(which), What::Torn(which)]);
                all.extend(whom.chain(ways).map(|what| Self::new(kind, what, when.clone())));
            }
        }
        all
    }
}

/// The two places of an operation.
pub struct Places<'a> {
    pub source: &'a Placement,
    pub target: &'a Placement,
}

impl What {
    /// Lets it happen. Returns when it is over.
    pub async fn happen(self, stack: &Stack, ways: &Ways, places: &Places<'_>) -> Result<()> {
        match self {
            Self::Killed(who) => {
                for process in who.processes(stack, places)? {
                    kill_process(process, Signal::KILL)?;
                }
            }
            Self::Paused(who) => {
                let processes = who.processes(stack, places)?;
                let whole: Vec<Pid> =
                    processes.iter().flat_map(|first| with_children(*first)).collect();
                // From the first one on nobody makes more of them.
                for process in &whole {
                    kill_process(*process, Signal::STOP)?;
                }
                tokio::time::sleep(INTERRUPTION).await;
                for process in &whole {
                    let _ = kill_process(*process, Signal::CONT);
                }
            }
            Self::Cut(which) | Self::Torn(which) => {
                let way = which.way(ways, places)?;
                way.cut();
                tokio::time::sleep(INTERRUPTION).await;
                match self {
                    Self::Torn(_) => way.heal_torn(),
                    _ => way.heal(),
                }
            }
        }
        Ok(())
    }
}

impl Who {
    /// None of an instance that sleeps.
    fn processes(self, stack: &Stack, places: &Places<'_>) -> Result<Vec<Pid>> {
        let of = |name: String| {
            let process = Pid::from_raw(stack.process(&name)?).context("no process")?;
            anyhow::Ok(vec![process])
        };
        let (source, target) = (&places.source.region, &places.target.region);
        match self {
            Self::Provisioner => of("provisioner".to_owned()),
            Self::ControlDatabase => of("postgres-control".to_owned()),
            Self::SourceServer => of(format!("postgres-{source}")),
            Self::TargetServer => of(format!("postgres-{target}")),
            Self::SourceRouter => of(format!("router-{source}")),
            Self::TargetRouter => of(format!("router-{target}")),
            Self::SourceInstance => instance(stack, places.source),
            Self::TargetInstance => instance(stack, places.target),
        }
    }
}

impl Which {
    fn way<'a>(self, ways: &'a Ways, places: &Places<'_>) -> Result<&'a tests::way::Way> {
        match self {
            Self::Control => Ok(&ways.control),
            Self::Source(between) => ways.of(between, &places.source.region),
            Self::Target(between) => ways.of(between, &places.target.region),
        }
    }
}

/// The process of a place's instance, as the provisioner wrote it down; none when it sleeps.
fn instance(stack: &Stack, place: &Placement) -> Result<Vec<Pid>> {
    let config = std::fs::read_to_string(stack.data_dir().join("config/provisioner.json"))?;
    let config: Value = serde_json::from_str(&config)?;
    let directory = config["runtime"]["directory"].as_str().context("no directory")?;
    let Ok(state) =
        std::fs::read_to_string(Path::new(directory).join(format!("{}.json", place.id)))
    else {
        return Ok(Vec::new());
    };
    let state: Value = serde_json::from_str(&state)?;
    let process = state["process"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    Ok(process.and_then(Pid::from_raw).into_iter().collect())
}

/// A process and, if it is a server of Postgres, those it made.
fn with_children(process: Pid) -> Vec<Pid> {
    let children = format!("/proc/{0}/task/{0}/children", process.as_raw_nonzero());
    let children = std::fs::read_to_string(children).unwrap_or_default();
    let is_server = std::fs::read_to_string(format!("/proc/{}/comm", process.as_raw_nonzero()))
        .is_ok_and(|name| name.trim() == "postgres");
    let children = children.split_whitespace().filter(|_| is_server);
    let children = children.filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
    std::iter::once(process).chain(children).collect()
}
