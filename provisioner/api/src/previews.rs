//! Previews: a site as it was at some moment, beside the site.

use control_types::{OperationId, SiteId, Slug, state::SiteState};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::Operation;

/// Makes a preview of a site. Exactly one of `at` and `before_operation` is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreatePreview {
    /// The site as it was then.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub at: Option<OffsetDateTime>,
    /// The site as it was right before this operation on it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Uuid>)]
    pub before_operation: Option<OperationId>,
    /// Seconds until the preview goes; a day when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_secs: Option<u32>,
    /// Why, for the audit trail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Only check and show the plan.
    #[serde(default)]
    pub dry_run: bool,
}

/// A site as it was at some moment. It is a site of its own, that can only be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Preview {
    /// Its own id, as a site.
    #[schema(value_type = Uuid)]
    pub id: SiteId,
    /// Its own short name.
    #[schema(value_type = String)]
    pub slug: Slug,
    /// The site that it shows.
    #[schema(value_type = Uuid)]
    pub of: SiteId,
    /// That site's short name.
    pub of_slug: String,
    /// As it was then.
    #[serde(with = "time::serde::rfc3339")]
    pub moment: OffsetDateTime,
    /// Opens it. Whoever has this sees everything in it.
    pub link: String,
    /// How it is.
    #[schema(value_type = String)]
    pub state: SiteState,
    /// What is being done with it.
    #[schema(value_type = Option<Uuid>)]
    pub live_operation: Option<OperationId>,
    /// Who asked for it.
    pub created_by: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it goes.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
}

/// A preview that is being made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AcceptedPreview {
    /// What now runs.
    pub operation: Operation,
    /// What it makes.
    pub preview: Preview,
}

/// What differs between a site as it was and as it is now, in the words of its people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Comparison {
    /// The preview.
    #[schema(value_type = String)]
    pub preview: Slug,
    /// The site that it shows.
    pub of_slug: String,
    /// Then.
    #[serde(with = "time::serde::rfc3339")]
    pub moment: OffsetDateTime,
    /// Now: when the two were read.
    #[serde(with = "time::serde::rfc3339")]
    pub read_at: OffsetDateTime,
    /// Courses, accounts and so on, each once.
    pub nouns: Vec<NounComparison>,
}

/// What differs among all things of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NounComparison {
    /// Of which kind: `courses`, `accounts`, `enrolments`, `progress`, `files`, `settings`.
    pub noun: String,
    /// How many there were then.
    pub then: u64,
    /// How many there are now.
    pub now: u64,
    /// Were there then and are not now.
    pub lost: u64,
    /// Are there now and were not then.
    pub added: u64,
    /// Are there and were there, and are not the same.
    pub changed: u64,
    /// The first ones of these.
    pub items: Vec<ComparedItem>,
}

/// One thing that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ComparedItem {
    /// Its id in the site.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// How it differs.
    pub change: Change,
}

/// How something differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Was there then and is not now.
    Lost,
    /// Is there now and was not then.
    Added,
    /// Is not the same.
    Changed,
}
