//! What happens to operations, by a script: at which step and where in it, and how each must end.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use control_types::{
    OperationId,
    state::{OperationKind, OperationState},
};
use futures_util::future::BoxFuture;
use provisioner::{
    engine::{Fault, Faults, Point},
    operations::planned,
};
use tokio::{runtime::Handle, sync::mpsc::UnboundedSender};

/// What happens to one operation, each once, and in this order.
pub type Rules = Vec<(String, Point, Fault)>;

/// What is done to the world at the beginning of a step, before the step begins.
type Hurdle = Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>;

/// Faults by operation.
pub struct Script {
    rules: Mutex<HashMap<OperationId, Rules>>,
    hurdles: Mutex<HashMap<OperationId, (String, Hurdle)>>,
    /// Told of operations whose worker vanished.
    vanished: UnboundedSender<OperationId>,
}

impl Script {
    /// Nothing happens yet.
    pub fn new(vanished: UnboundedSender<OperationId>) -> Self {
        Self { rules: Mutex::default(), hurdles: Mutex::default(), vanished }
    }

    pub fn rules(&self) -> MutexGuard<'_, HashMap<OperationId, Rules>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts something into a step's way, once.
    pub fn put(&self, id: OperationId, step: &str, hurdle: Hurdle) {
        let mut hurdles = self.hurdles.lock().unwrap_or_else(PoisonError::into_inner);
        hurdles.insert(id, (step.to_owned(), hurdle));
    }

    fn hurdle(&self, id: OperationId, step: &str) -> Option<Hurdle> {
        let mut hurdles = self.hurdles.lock().unwrap_or_else(PoisonError::into_inner);
        hurdles
            .get(&id)
            .is_some_and(|(at, _)| at == step)
            .then(|| hurdles.remove(&id))?
            .map(|it| it.1)
    }
}

impl Faults for Script {
    fn at(&self, operation: OperationId, _: OperationKind, step: &str, point: Point) -> Fault {
        if point == Point::BeforeForward
            && let Some(hurdle) = self.hurdle(operation, step)
        {
            tokio::task::block_in_place(|| Handle::current().block_on(hurdle()));
        }
        let mut rules = self.rules();
        let Some(rules) = rules.get_mut(&operation) else { return Fault::None };
        let is_next = rules.first().is_some_and(|(at, when, _)| at == step && *when == point);
        let fault = if is_next { rules.remove(0).2 } else { Fault::None };
        if fault == Fault::Crash {
            let _ = self.vanished.send(operation);
        }
        fault
    }
}

/// One scenario: its name, its faults, and how the operation must end.
pub struct Scenario {
    /// For people.
    pub name: String,
    /// What happens.
    pub rules: Rules,
    /// How the operation ends all the same.
    pub ends: OperationState,
}

impl Scenario {
    /// Nothing happens.
    pub fn plain(name: &str) -> Self {
        Self { name: name.to_owned(), rules: Vec::new(), ends: OperationState::Succeeded }
    }
}

/// Every step of a kind through everything that can happen to it.
pub fn scenarios(kind: OperationKind) -> Vec<Scenario> {
    let planned = planned(kind);
    // Without a pivot everything can be undone, up to the last step.
    let pivot = planned.shape.pivot.unwrap_or(planned.steps.len() - 1);
    let pivot_step = &planned.steps[pivot];
    let mut all = Vec::new();
    for (index, step) in planned.steps.iter().enumerate() {
        let mut add = |what: &str, rules: Rules, ends| {
            all.push(Scenario { name: format!("{kind}/{step}/{what}"), rules, ends });
        };
        let at = |point, fault| (step.clone(), point, fault);
        let done = OperationState::Succeeded;
        add("crash before", vec![at(Point::BeforeForward, Fault::Crash)], done);
        add("crash after", vec![at(Point::AfterForward, Fault::Crash)], done);
        add("twice", vec![at(Point::AfterForward, Fault::Again)], done);
        if index > pivot {
            continue;
        }
        let undone = OperationState::Failed;
        add("fail before", vec![at(Point::BeforeForward, Fault::Fail)], undone);
        // No undo brings back a database that was dropped, or a site that moved on.
        let is_final = kind != OperationKind::CreateSite;
        if kind == OperationKind::DeleteSite && index == pivot {
            continue;
        }
        let turn = if index == pivot && !is_final {
            at(Point::AfterForward, Fault::Fail)
        } else {
            (pivot_step.clone(), Point::BeforeForward, Fault::Fail)
        };
        add("undo twice", vec![turn.clone(), at(Point::AfterUndo, Fault::Again)], undone);
        add("crash before undo", vec![turn.clone(), at(Point::BeforeUndo, Fault::Crash)], undone);
        add("crash after undo", vec![turn.clone(), at(Point::AfterUndo, Fault::Crash)], undone);
        add("undo fails once", vec![turn, at(Point::BeforeUndo, Fault::Fail)], undone);
    }
    all
}

/// The same in few operations, for kinds that take long: what happens to one step only elsewhere
/// happens to all of them at once. An undo whose effect is not there is what an undo twice is, so
/// what is left for each step alone is that its effect is there, was not noted, and then it fails.
pub fn few_scenarios(kind: OperationKind) -> Vec<Scenario> {
    let planned = planned(kind);
    let steps = &planned.steps;
    let pivot = planned.shape.pivot.unwrap_or(steps.len() - 1);
    let turn = (steps[pivot].clone(), Point::BeforeForward, Fault::Fail);
    let all = |steps: &[String], faults: &[(Point, Fault)]| -> Rules {
        let each = |step: &String| {
            faults.iter().map(|(point, fault)| (step.clone(), *point, *fault)).collect::<Rules>()
        };
        steps.iter().flat_map(each).collect()
    };
    let done = |what: &str, faults: &[(Point, Fault)]| Scenario {
        name: format!("{kind}/{what}"),
        rules: all(steps, faults),
        ends: OperationState::Succeeded,
    };
    let backwards: Vec<String> = steps[..=pivot].iter().rev().cloned().collect();
    let undone = |what: &str, faults: &[(Point, Fault)]| Scenario {
        name: format!("{kind}/{what}"),
        rules: [vec![turn.clone()], all(&backwards, faults)].concat(),
        ends: OperationState::Failed,
    };
    let vanish = [(Point::BeforeForward, Fault::Crash), (Point::AfterForward, Fault::Crash)];
    let vanish_back = [(Point::BeforeUndo, Fault::Crash), (Point::AfterUndo, Fault::Crash)];
    let mut few = vec![
        done("every worker vanishes, before and after", &vanish),
        undone("every worker vanishes while undoing", &vanish_back),
        done("everything twice", &[(Point::AfterForward, Fault::Again)]),
        undone("every undo twice", &[(Point::AfterUndo, Fault::Again)]),
        undone("every undo fails once", &[(Point::BeforeUndo, Fault::Fail)]),
    ];
    few.extend(steps[..pivot].iter().rev().map(|step| {
        let at = |point, fault| (step.clone(), point, fault);
        Scenario {
            name: format!("{kind}/{step}/crash after, then fail"),
            rules: vec![
                at(Point::AfterForward, Fault::Crash),
                at(Point::BeforeForward, Fault::Fail),
            ],
            ends: OperationState::Failed,
        }
    }));
    few
}
