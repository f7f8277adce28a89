//! The provisioner's HTTP API: what is said over it, and the client that says it. The provisioner
//! serves a description of it as OpenAPI 3.1 at `/openapi.json`.

pub mod problem;
pub mod places;
pub mod routers;
pub mod sites;
pub mod domains;
pub mod certificates;
pub mod backups;
pub mod restores;
pub mod previews;
pub mod operations;
pub mod status;
#[cfg(feature = "client")]
pub mod client;

pub use operations::{Operation, OperationEvent, StepProgress};
pub use places::{Cluster, ObjectStore, Plan, Region, Router};
pub use problem::Problem;
pub use sites::{CreateSite, DeleteSite, Site};
pub use status::Status;
