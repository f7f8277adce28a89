//! Every kind of operation, at every step: it fails before, its worker vanishes before and after the
//! effect, the effect happens twice, the undo happens twice, the worker vanishes while undoing.
//! Enumerated, not sampled. Ends done or undone, never stuck, and with nothing left behind.

mod bench;
mod create_and_delete;
mod homes;
mod hurdles;
mod moves;
mod nomad;
mod previews;
mod restores;
mod routers;
mod script;

pub use create_and_delete::every_step as every_step_of_creating_and_deleting;
pub use homes::{Homes, Servers, look_at_databases};
pub use moves::every_step as every_step_of_moving;
pub use nomad::{Ground, Nomad};
pub use previews::every_step as every_step_of_previewing;
pub use restores::every_step as every_step_of_restoring;
