//! Making previews: whether a moment can be shown, and what is recorded for one.

use control_types::{
    Hostname, OperationId, SiteId, Slug,
    hostname::HostnameError,
    slug::SlugError,
    state::{DomainKind, OperationKind},
};
use provisioner_api::Site;
use serde_json::json;
use time::OffsetDateTime;

use crate::{
    backups,
    control_db::{
        audit::{self, AuditEvent},
        cluster_backups,
        domains::{self, ClaimHostnameError},
        operations::{self, InsertOperationError, NewOperation},
        placement_terms,
        previews::{self, NewPreview},
        sites::{self, InsertSiteError, NewSite},
    },
    durations::second,
    operations::{create_preview::CreatePreviewParams, restoring::Past},
    secrets::{self, PreviewKey, SecretError},
    site_database::NotASiteDatabase,
    world::World,
};

/// Why there is no preview.
#[derive(Debug, thiserror::Error)]
pub enum NotMade {
    /// That moment cannot be brought back, for this reason.
    #[error("{0}")]
    OutOfReach(String),
    /// The same request is being recorded.
    #[error("the same idempotency key was just used")]
    Repeated,
    /// Its site cannot be recorded.
    #[error("the preview's row")]
    Site(#[from] InsertSiteError),
    /// Nor its hostname.
    #[error("the preview's hostname")]
    Claim(#[from] ClaimHostnameError),
    /// A name is none.
    #[error("the preview's name")]
    Slug(#[from] SlugError),
    /// As above.
    #[error("the preview's hostname")]
    Hostname(#[from] HostnameError),
    /// The site's database has a strange name.
    #[error("the site's database")]
    SiteDatabase(#[from] NotASiteDatabase),
    /// Parameters that are no JSON.
    #[error("the operation's parameters")]
    Json(#[from] serde_json::Error),
    /// A key cannot be made or sealed.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The control database does not answer.
    #[error("control database")]
    Database(#[from] sqlx::Error),
}

/// Where a site was at a moment, if it can be brought back from there.
///
/// # Errors
/// [`NotMade::OutOfReach`] when it cannot be.
pub async fn past(
    world: &World,
    site: &Site,
    moment: OffsetDateTime,
    now: OffsetDateTime,
) -> Result<Past, NotMade> {
    let pool = &world.db.pool;
    let refuse = |why: String| {
        let (slug, at) = (&site.slug, second(moment));
        NotMade::OutOfReach(format!("site {slug} cannot be shown as it was at {at}: {why}"))
    };
    let term = placement_terms::at(pool, site.id, moment).await?;
    let term =
        term.ok_or_else(|| refuse(format!("it is there since {} only", second(site.created_at))))?;
    let known = cluster_backups::known(pool, term.cluster).await?;
    let known = known.ok_or_else(|| refuse(format!("cluster {} is gone", term.cluster_name)))?;
    if let Some(why) = backups::out_of_reach(&known, &term, moment, now) {
        return Err(refuse(why));
    }
    if !site.allowed_regions.contains(&term.region) {
        let region = &term.region;
        return Err(refuse(format!("it was in {region} then, where it may not be any more")));
    }
    Ok(Past {
        of: site.id,
        moment,
        region: term.region,
        cluster: term.cluster,
        cluster_name: term.cluster_name,
        database: term.database.parse()?,
        object_store: term.object_store,
    })
}

/// A preview that is wanted.
pub struct Wanted<'a> {
    /// The site that it shows.
    pub of: &'a Site,
    /// As it was.
    pub past: Past,
    /// When it goes.
    pub expires_at: OffsetDateTime,
    /// Who wants it.
    pub actor: &'a str,
    /// Why.
    pub reason: Option<&'a str>,
    /// The same key again is the same request.
    pub idempotency_key: Option<&'a str>,
    /// It is made to prove that the site can be put back, for nobody to look at.
    pub is_proof: bool,
}

/// Records a preview and the operation that makes it.
///
/// # Errors
/// When it cannot be.
pub async fn make(world: &World, wanted: Wanted<'_>) -> Result<OperationId, NotMade> {
    let (id, operation) = (SiteId::generate(), OperationId::generate());
    let key = secrets::random_text()?;
    let key_hash = secrets::token_hash(&key);
    let (of, region) = (wanted.of, wanted.past.region.clone());
    let sealed_key = world.keys.seal(&region, id.0, &PreviewKey(key))?;
    let slug = slug(id)?;
    let hostname = Hostname::on_platform(&slug, &world.platform_domain)?;
    let mut tx = world.db.pool.begin().await?;
    let site = NewSite {
        id,
        slug: &slug,
        name: &of.name,
        plan: &of.plan,
        allowed_regions: &of.allowed_regions,
        default_language: &of.default_language,
    };
    sites::insert(&mut tx, &site).await?;
    domains::claim(&mut tx, id, &hostname, DomainKind::Platform, true).await?;
    let moment = wanted.past.moment;
    let preview = NewPreview {
        site: id,
        of: of.id,
        moment,
        region: &region,
        sealed_key: &sealed_key,
        key_hash: &key_hash,
        created_by: wanted.actor,
        expires_at: wanted.expires_at,
        is_proof: wanted.is_proof,
    };
    previews::insert(&mut tx, &preview).await?;
    let detail = json!({
        "of": of.id, "slug": of.slug, "moment": moment.unix_timestamp(),
        "cluster": wanted.past.cluster_name,
    });
    let new = NewOperation {
        id: operation,
        kind: OperationKind::CreatePreview,
        site: id,
        params: serde_json::to_value(CreatePreviewParams { past: wanted.past })?,
        requested_by: wanted.actor,
        reason: wanted.reason,
        idempotency_key: wanted.idempotency_key,
    };
    match operations::insert(&mut tx, &new).await {
        Ok(()) => {}
        Err(InsertOperationError::SiteBusy | InsertOperationError::Repeated) => {
            return Err(NotMade::Repeated);
        }
        Err(InsertOperationError::Database(error)) => return Err(error.into()),
    }
    let event = AuditEvent {
        actor: wanted.actor,
        action: "preview.create",
        site: Some(id),
        operation: Some(operation),
        reason: wanted.reason,
        detail,
    };
    audit::append(&mut tx, event).await?;
    tx.commit().await?;
    Ok(operation)
}

/// Says nothing of the site that it shows.
fn slug(id: SiteId) -> Result<Slug, SlugError> {
    let digits = id.0.simple().to_string();
    // The last ones: the first ones are the time.
    let digits = digits.get(digits.len() - 10..).unwrap_or(&digits);
    format!("{}{digits}", control_types::slug::PREVIEW).parse()
}
