//! How the platform is, as far as the provisioner sees it.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// How the platform is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// The parts that it is made of.
    pub components: Vec<Component>,
    /// What is kept true in the background.
    pub reconcilers: Vec<Reconciler>,
    /// Operations that are not finished.
    pub n_live_operations: i64,
    /// Operations that wait for a human.
    pub n_stuck_operations: i64,
}

/// One part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Component {
    /// As `cluster jakarta-1`.
    pub name: String,
    /// What is wrong with it, if anything is.
    pub problem: Option<String>,
}

/// A loop that makes something true again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reconciler {
    /// As `instances`.
    pub name: String,
    /// When it last came to its end.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_run_at: Option<OffsetDateTime>,
    /// Why its last run failed, if it did.
    pub last_error: Option<String>,
}
