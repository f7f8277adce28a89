//! Sites over the API.

use control_types::{Generation, Hostname, SiteId, Slug, state};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::{backups::RestoreWindow, operations::Operation};

/// A site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Site {
    /// Its id; never used again.
    #[schema(value_type = uuid::Uuid)]
    pub id: SiteId,
    /// Its short name; free again when the site is deleted.
    #[schema(value_type = String)]
    pub slug: Slug,
    /// The institution's name.
    pub name: String,
    /// Its plan's name.
    pub plan: String,
    /// What it is to its people.
    #[schema(value_type = String)]
    pub state: state::SiteState,
    /// Why it is suspended.
    pub suspended_reason: Option<String>,
    /// Where its data may be.
    pub allowed_regions: Vec<String>,
    /// `id` or `en`.
    pub default_language: String,
    /// Where it is now; none before it was placed and after it was deleted.
    pub placement: Option<Placement>,
    /// Where it can be moved back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub way_back: Option<WayBack>,
    /// It was put back to an earlier moment, and until when that can be undone.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub undo_restore_until: Option<OffsetDateTime>,
    /// Which moments it can be put back to; only when it is asked for alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restorable: Option<RestoreWindow>,
    /// The site that it shows as it was at some moment, if it is a preview.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<uuid::Uuid>)]
    pub preview_of: Option<SiteId>,
    /// Its hostnames, the primary one first.
    pub domains: Vec<Domain>,
    /// What runs it.
    pub instance: Option<Instance>,
    /// The unfinished operation on it.
    #[schema(value_type = Option<uuid::Uuid>)]
    pub live_operation: Option<control_types::OperationId>,
    /// When its data will be dropped, if it is being deleted.
    #[serde(with = "time::serde::rfc3339::option")]
    pub delete_after: Option<OffsetDateTime>,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// Where a site is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Placement {
    /// Goes up with every change.
    #[schema(value_type = i64)]
    pub generation: Generation,
    /// The region.
    pub region: String,
    /// The cluster's name.
    pub cluster: String,
    /// The object store's name.
    pub object_store: String,
    /// The database's name.
    pub database: String,
    /// The prefix in the object store.
    pub prefix: String,
}

/// Where a site was before, and can return to with everything written since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WayBack {
    /// The region.
    pub region: String,
    /// The cluster's name.
    pub cluster: String,
    /// Then what is there is removed.
    #[serde(with = "time::serde::rfc3339")]
    pub until: OffsetDateTime,
}

/// A hostname of a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Domain {
    /// The name in canonical form.
    #[schema(value_type = String)]
    pub hostname: Hostname,
    /// The platform's or the institution's own.
    #[schema(value_type = String)]
    pub kind: state::DomainKind,
    /// How far it is.
    #[schema(value_type = String)]
    pub state: state::DomainState,
    /// Whether the others redirect to it.
    pub is_primary: bool,
    /// Where it opens, as `https://acme.localhost:8443`.
    pub url: String,
}

/// The process that serves a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Instance {
    /// Its id.
    #[schema(value_type = uuid::Uuid)]
    pub id: control_types::InstanceId,
    /// What the runtime saw last.
    #[schema(value_type = String)]
    pub observed: state::InstanceObserved,
    /// Its process, while it runs.
    pub process_id: Option<i32>,
    /// How often it was started.
    pub starts: i32,
    /// Why it does not start.
    pub last_error: Option<String>,
}

/// Makes a site.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateSite {
    /// Its short name: the first label of its hostname on the platform's domain.
    pub slug: String,
    /// The institution's name.
    pub name: String,
    /// Where it is to live.
    pub region: String,
    /// Its plan's name.
    pub plan: String,
    /// Where its data may be; only `region` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_regions: Option<Vec<String>>,
    /// `id` (when absent) or `en`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_language: Option<String>,
    /// A hostname of the institution's own. It becomes the primary one. The operator vouches that
    /// it is theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The site's first administrator.
    pub administrator: NewAccount,
    /// More accounts to begin with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accounts: Vec<NewAccount>,
    /// Why, for the audit trail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Only check and show the plan.
    #[serde(default)]
    pub dry_run: bool,
}

/// An account to make with a site.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAccount {
    /// Where its mail goes, and how it signs in.
    pub email: String,
    /// The person's name; the part of the address before `@` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the person may do. An administrator's is `admin` whatever this says.
    #[serde(default)]
    pub role: Role,
    /// A password to begin with. Without one the person chooses it behind an invitation link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// What an account may do on its site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Learns.
    #[default]
    Student,
    /// Makes courses.
    Instructor,
    /// Helps people and sees all courses.
    Staff,
    /// Owns the site.
    Admin,
}

/// A request that became an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Accepted {
    /// What now runs.
    pub operation: Operation,
    /// The site.
    pub site: Site,
    /// Where the administrator chooses a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invitation_url: Option<String>,
}

/// What a dry run found: nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DryRun {
    /// The steps that would run, in order, with what each would do.
    pub steps: Vec<PlannedStep>,
    /// The step after which there is no way back, if there is one.
    pub pivot: Option<String>,
    /// How long the last ones of its kind took, in milliseconds (median), without waiting times that
    /// were asked for. None when there was none yet.
    pub estimated_ms: Option<u64>,
    /// What would stop it, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// What it would wait for before it begins, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits: Vec<String>,
    /// Bytes that it would move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// How long requests would be held, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_ms: Option<u64>,
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedStep {
    /// Its name.
    pub step: String,
    /// What it would do, in words.
    pub description: String,
}

/// Deletes a site.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeleteSite {
    /// Seconds during which it can be cancelled; the plan's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_period_secs: Option<i32>,
    /// Why, for the audit trail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Only check and show the plan.
    #[serde(default)]
    pub dry_run: bool,
}

/// Moves a site to another cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveSite {
    /// The region; where the site is when only another cluster is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The cluster, by its name; the emptiest one of the region when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The switch happens no earlier than this.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub not_before: Option<OffsetDateTime>,
    /// The switch waits until no request has been under way for some seconds.
    #[serde(default)]
    pub when_quiet: bool,
    /// Everything is copied and compared as fast as it goes; other sites of both clusters notice.
    #[serde(default)]
    pub fast: bool,
    /// Why, for the audit trail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Only check and show the plan.
    #[serde(default)]
    pub dry_run: bool,
}

/// Changes where a site's data may be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeRegions {
    /// Regions where it may be from now on, besides the others.
    #[serde(default)]
    pub allow: Vec<String>,
    /// Regions where it may not be any more. Refused while something of the site is there.
    #[serde(default)]
    pub forbid: Vec<String>,
    /// Why, for the audit trail: who agreed, and where that is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Moves a site back to where it was, or removes what is kept there for that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeMove {
    /// Why, for the audit trail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Only check and show the plan.
    #[serde(default)]
    pub dry_run: bool,
}

/// What was proven of a site: kept as long as the site's own record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SiteRecord {
    /// The operation that it is of.
    #[schema(value_type = uuid::Uuid)]
    pub operation: control_types::OperationId,
    /// What it proves.
    #[schema(value_type = String)]
    pub kind: state::RecordKind,
    /// JSON, exactly as signed.
    pub document: String,
    /// By the platform's authority: ECDSA P-256 with SHA-256 (DER, in base64).
    pub signature: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// Closes a site, or opens it again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeSite {
    /// Why, for the audit trail; shown to operators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
