//! Operations over the API.

use control_types::{OperationId, SiteId, Slug, state};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// A durable, resumable piece of work on a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    /// Its id.
    #[schema(value_type = uuid::Uuid)]
    pub id: OperationId,
    /// What it does.
    #[schema(value_type = String)]
    pub kind: state::OperationKind,
    /// Its site.
    #[schema(value_type = uuid::Uuid)]
    pub site_id: SiteId,
    /// The site's slug.
    #[schema(value_type = String)]
    pub site: Slug,
    /// Where it stands.
    #[schema(value_type = String)]
    pub state: state::OperationState,
    /// All its steps in order.
    pub steps: Vec<StepProgress>,
    /// Steps done.
    pub steps_done: u32,
    /// Whether a cancel would still be obeyed.
    pub can_cancel: bool,
    /// Who asked to cancel it.
    pub cancel_requested_by: Option<String>,
    /// The newest error, if the last attempt had one.
    pub last_error: Option<String>,
    /// What to do about a stuck operation: the name of a runbook.
    pub runbook: Option<String>,
    /// Who asked for it.
    pub requested_by: String,
    /// Why.
    pub reason: Option<String>,
    /// When it goes on, if it waits.
    #[serde(with = "time::serde::rfc3339::option")]
    pub waits_until: Option<OffsetDateTime>,
    /// When it was asked for.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it ended.
    #[serde(with = "time::serde::rfc3339::option")]
    pub finished_at: Option<OffsetDateTime>,
}

/// A step of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StepProgress {
    /// Its name.
    pub step: String,
    /// Whether it is done (and not undone).
    pub done: bool,
    /// Whether there is no way back after it.
    pub is_pivot: bool,
}

/// Something that happened in an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperationEvent {
    /// Its place in the operation's log, from 1.
    pub seq: i32,
    /// The step.
    pub step: String,
    /// What happened.
    #[schema(value_type = String)]
    pub event: state::StepEvent,
    /// Which try.
    pub attempt: i32,
    /// More about it.
    pub detail: Option<serde_json::Value>,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}

/// What is new of an operation since a place in its log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperationNews {
    /// The operation now.
    pub operation: Operation,
    /// The events after the given place.
    pub events: Vec<OperationEvent>,
}

/// Which part of a list.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperationFilter {
    /// Only of this site (slug or id).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Only unfinished ones.
    #[serde(default)]
    pub live: bool,
    /// At most so many, the newest first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<i64>,
}
