//! What keepers are told to bring back from the backups of their clusters, and what they say of it.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

/// One database as it was at a moment is to be brought into a new, empty database of the same cluster.
/// A keeper that is told so again has done it already, does it, or does it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RestoreOrder {
    /// Its id.
    pub id: Uuid,
    /// The database as the backups have it.
    pub database: String,
    /// As it was then: all that was committed by then, and nothing that was committed later.
    #[serde(with = "time::serde::rfc3339")]
    pub moment: OffsetDateTime,
    /// The database that it comes into.
    pub into: String,
    /// The role that everything in it shall belong to.
    pub owner: String,
}

/// How far a keeper is with an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum RestoreProgress {
    /// It is at it.
    Working {
        /// At what, in words.
        far: String,
    },
    /// Everything is there.
    Done {
        /// The last transaction that is, if the server told.
        #[serde(with = "time::serde::rfc3339::option")]
        last_commit_at: Option<OffsetDateTime>,
        /// Milliseconds of each part, in their order, as `restore the files`.
        parts: Vec<(String, u64)>,
    },
    /// It cannot be done, and nothing is left of the try.
    Failed {
        /// Why, as a sentence.
        reason: String,
    },
}
