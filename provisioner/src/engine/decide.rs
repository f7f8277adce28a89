//! What an operation does next: a pure function of what was noted.

use control_types::state::OperationState;

/// What was noted of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Journal {
    /// Where it stands.
    pub state: OperationState,
    /// Forward: steps done. Unwinding: steps that are still to be undone.
    pub steps_done: usize,
    /// Attempts of the step at hand that began; 0 when none did.
    pub attempts: u32,
    /// Whether somebody asked to cancel.
    pub cancel_requested: bool,
}

/// The fixed list of steps, as far as deciding needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// How many steps.
    pub n_steps: usize,
    /// The step that there is no way back from, once it began.
    pub pivot: Option<usize>,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Do this step.
    Forward(usize),
    /// Turn round: this many steps are to be undone.
    Unwind(usize),
    /// Undo this step.
    Undo(usize),
    /// Nothing is left to do.
    Finish(OperationState),
    /// Nothing can be done by a machine, or nothing was left to do already.
    Rest,
}

impl Shape {
    /// Whether the pivot began, so that there is no way back.
    pub fn is_past_pivot(self, steps_done: usize, attempts: u32) -> bool {
        self.pivot.is_some_and(|pivot| steps_done > pivot || (steps_done == pivot && attempts > 0))
    }

    /// How many steps must be undone, counting the one at hand if it may have begun.
    pub fn to_undo(self, steps_done: usize, attempts: u32) -> usize {
        (steps_done + usize::from(attempts > 0)).min(self.n_steps)
    }
}

/// What comes next.
pub fn decide(shape: Shape, journal: Journal) -> Next {
    let Journal { state, steps_done, attempts, cancel_requested } = journal;
    match state {
        OperationState::Queued | OperationState::Running => {
            if steps_done >= shape.n_steps {
                Next::Finish(OperationState::Succeeded)
            } else if cancel_requested && !shape.is_past_pivot(steps_done, attempts) {
                Next::Unwind(shape.to_undo(steps_done, attempts))
            } else {
                Next::Forward(steps_done)
            }
        }
        OperationState::Unwinding if steps_done > 0 => Next::Undo(steps_done - 1),
        OperationState::Unwinding if cancel_requested => Next::Finish(OperationState::Cancelled),
        OperationState::Unwinding => Next::Finish(OperationState::Failed),
        OperationState::Stuck
        | OperationState::Succeeded
        | OperationState::Failed
        | OperationState::Cancelled => Next::Rest,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Runs an operation whose worker crashes, fails and is cancelled wherever `chance` says so, and
    /// returns which steps' effects are there at its end.
    fn run(shape: Shape, mut chance: impl FnMut() -> u8) -> (OperationState, Vec<bool>) {
        let mut effects = vec![false; shape.n_steps];
        let mut journal = Journal {
            state: OperationState::Queued,
            steps_done: 0,
            attempts: 0,
            cancel_requested: false,
        };
        for _ in 0..1000 {
            if chance() == 0 && !shape.is_past_pivot(journal.steps_done, journal.attempts) {
                journal.cancel_requested = true;
            }
            match decide(shape, journal) {
                Next::Forward(step) => {
                    assert_eq!(step, journal.steps_done);
                    journal.state = OperationState::Running;
                    journal.attempts += 1;
                    match chance() {
                        // Crashed before the effect, crashed after it, failed.
                        1 => continue,
                        2 => effects[step] = true,
                        3 if shape.pivot.is_none_or(|pivot| step <= pivot) => {
                            journal.state = OperationState::Unwinding;
                            journal.steps_done =
                                shape.to_undo(journal.steps_done, journal.attempts);
                            journal.attempts = 0;
                        }
                        _ => {
                            effects[step] = true;
                            journal.steps_done += 1;
                            journal.attempts = 0;
                        }
                    }
                }
                Next::Unwind(to_undo) => {
                    journal.state = OperationState::Unwinding;
                    journal.steps_done = to_undo;
                    journal.attempts = 0;
                }
                Next::Undo(step) => {
                    effects[step] = false;
                    if chance() != 1 {
                        journal.steps_done -= 1;
                    }
                }
                Next::Finish(state) => return (state, effects),
                Next::Rest => panic!("rests in {journal:?}"),
            }
        }
        panic!("does not end: {journal:?}");
    }

    proptest! {
        #[test]
        fn ends_with_all_effects_or_none(
            n_steps in 1usize..8,
            pivot in proptest::option::of(0usize..8),
            chances in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let shape = Shape { n_steps, pivot: pivot.filter(|pivot| *pivot < n_steps) };
            let mut chances = chances.into_iter();
            let (state, effects) = run(shape, || chances.next().unwrap_or(255) % 6);
            match state {
                OperationState::Succeeded => prop_assert!(effects.iter().all(|there| *there)),
                OperationState::Failed | OperationState::Cancelled => {
                    prop_assert!(effects.iter().all(|there| !there));
                }
                other => prop_assert!(false, "ended as {other}"),
            }
        }
    }

    #[test]
    fn nothing_turns_back_once_the_pivot_began() {
        let shape = Shape { n_steps: 3, pivot: Some(1) };
        let at = |steps_done, attempts| Journal {
            state: OperationState::Running,
            steps_done,
            attempts,
            cancel_requested: true,
        };
        assert_eq!(decide(shape, at(1, 0)), Next::Unwind(1));
        assert_eq!(decide(shape, at(1, 1)), Next::Forward(1));
        assert_eq!(decide(shape, at(2, 0)), Next::Forward(2));
        assert_eq!(decide(shape, at(0, 1)), Next::Unwind(1));
    }
}
