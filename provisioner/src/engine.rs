//! How an operation runs.
//!
//! An operation is a row: its kind, its parameters, how many of its steps are done. A worker claims
//! the row for a short time, asks [`decide`] what comes next, does that one thing, and notes the
//! outcome in the same transaction that the claim is checked in. Whatever happens to the worker
//! between two of these transactions, the next claim begins at the step that was not noted; so every
//! step can run twice, and every undo too.
//!
//! ```text
//! row ─claim─> decide ─> forward(step) ─note─┐      before the pivot a failure unwinds everything,
//!                ^  └──> undo(step)   ─note─┤      after it the operation only goes forward, and
//!                └──────────────────────────┘      what cannot go forward is stuck
//! ```
//!
//! Retries are endless, with capped back-off; only a step that says that it cannot be done ends an
//! operation (or a kind's patience, before its pivot). A step that is silent for too long is tried
//! again as well (`signs.rs`).

pub mod claim;
pub mod decide;
pub mod faults;
pub mod kind;
pub mod signs;
pub mod worker;

pub use claim::{Claim, ClaimError};
pub use faults::{Fault, Faults, NoFaults, Point};
pub use kind::{Cx, Flow, Kind, PlannedOperation, StepError, StepResult};
pub use worker::{Engine, EngineOptions};
