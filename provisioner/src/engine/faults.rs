//! Places where a test makes an operation fail or its worker vanish. In production nothing is asked
//! but [`NoFaults`].

use control_types::{OperationId, state::OperationKind};

/// Where in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Point {
    /// Before a step's effect, going forward.
    BeforeForward,
    /// After a step's effect, before it is noted.
    AfterForward,
    /// Before a step's effect is undone.
    BeforeUndo,
    /// After a step's effect was undone, before that is noted.
    AfterUndo,
}

/// What happens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// The step cannot be done.
    Fail,
    /// The worker vanishes: nothing is noted, the claim stays until it expires.
    Crash,
    /// The effect happens once more.
    Again,
}

/// Decides what happens at each point.
pub trait Faults: Send + Sync {
    /// What happens at `point` of `step`.
    fn at(&self, operation: OperationId, kind: OperationKind, step: &str, point: Point) -> Fault;
}

/// Nothing ever happens.
pub struct NoFaults;

impl Faults for NoFaults {
    fn at(&self, _: OperationId, _: OperationKind, _: &str, _: Point) -> Fault {
        Fault::None
    }
}
