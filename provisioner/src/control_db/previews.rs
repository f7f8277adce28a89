//! `preview`: sites that show another one as it was.

use control_types::{OperationId, SiteId, state::SiteState};
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;

/// A preview as it is first stored, beside its row in `site`.
pub struct NewPreview<'a> {
    /// Its own id, as a site.
    pub site: SiteId,
    /// The site that it shows.
    pub of: SiteId,
    /// As it was then.
    pub moment: OffsetDateTime,
    /// Whose key seals the secret.
    pub region: &'a str,
    /// The secret in its link, sealed.
    pub sealed_key: &'a [u8],
    /// SHA-256 of it.
    pub key_hash: &'a [u8],
    /// Who asked for it.
    pub created_by: &'a str,
    /// When it goes.
    pub expires_at: OffsetDateTime,
    /// It proves that the site can be put back.
    pub is_proof: bool,
}

/// Stores a preview.
///
/// # Errors
/// When the database does not answer.
pub async fn insert(
    connection: &mut PgConnection,
    preview: &NewPreview<'_>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into preview (site_id, of_site_id, moment, region, sealed_key, key_hash, created_by,
                              expires_at, is_proof)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        preview.site.0,
        preview.of.0,
        preview.moment,
        preview.region,
        preview.sealed_key,
        preview.key_hash,
        preview.created_by,
        preview.expires_at,
        preview.is_proof,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A preview with what its link is made of.
pub struct PreviewRow {
    /// Its own id, as a site.
    pub site: SiteId,
    /// Its own short name.
    pub slug: String,
    /// The site that it shows.
    pub of: SiteId,
    /// That site's short name.
    pub of_slug: String,
    /// As it was then.
    pub moment: OffsetDateTime,
    /// Whose key seals the secret.
    pub region: String,
    /// The secret in its link, sealed.
    pub sealed_key: Vec<u8>,
    /// Its hostname.
    pub hostname: Option<String>,
    /// How it is.
    pub state: SiteState,
    /// What is being done with it.
    pub live_operation: Option<OperationId>,
    /// Who asked for it.
    pub created_by: String,
    /// When.
    pub created_at: OffsetDateTime,
    /// When it goes.
    pub expires_at: OffsetDateTime,
}

/// Which previews. Those that only prove something are in no list.
#[derive(Clone, Copy, Debug)]
pub enum Which {
    /// All that are there.
    All,
    /// Those of a site that are there.
    Of(SiteId),
    /// The one that is this site, there or not.
    Itself(SiteId),
}

/// Previews, the newest first.
///
/// # Errors
/// When the database does not answer.
pub async fn list(control: &PgPool, which: Which) -> Result<Vec<PreviewRow>, sqlx::Error> {
    let (of, itself) = match which {
        Which::All => (None, None),
        Which::Of(site) => (Some(site.0), None),
        Which::Itself(site) => (None, Some(site.0)),
    };
    sqlx::query_as!(
        PreviewRow,
        r#"select preview.site_id as "site: SiteId", site.slug, preview.of_site_id as "of: SiteId",
               original.slug as of_slug, preview.moment, preview.region, preview.sealed_key,
               (select hostname from domain where domain.site_id = site.id and is_primary)
                   as hostname,
               site.state as "state: SiteState",
               (select operation.id from operation where operation.site_id = site.id
                    and operation.state in ('queued', 'running', 'unwinding', 'stuck'))
                   as "live_operation: OperationId",
               preview.created_by, preview.created_at, preview.expires_at
           from preview
           join site on site.id = preview.site_id
           join site original on original.id = preview.of_site_id
           where case when $2::uuid is not null then preview.site_id = $2
               else site.state <> 'deleted' and not is_proof and ($1::uuid is null or preview.of_site_id = $1) end
           order by preview.created_at desc"#,
        of,
        itself,
    )
    .fetch_all(control)
    .await
}

/// Lets a preview go now.
///
/// # Errors
/// When the database does not answer.
pub async fn expire(control: &PgPool, preview: SiteId) -> Result<(), sqlx::Error> {
    sqlx::query!("update preview set expires_at = now() where site_id = $1", preview.0)
        .execute(control)
        .await?;
    Ok(())
}

/// Previews that shall go: their time is over, or what they show was deleted, or their files went with
/// the place that they are of. Of those that no operation is on.
///
/// # Errors
/// When the database does not answer.
pub async fn overdue(control: &PgPool) -> Result<Vec<SiteId>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select preview.site_id as "site: SiteId"
           from preview
           join site on site.id = preview.site_id
           join site original on original.id = preview.of_site_id
           join placement on placement.site_id = site.id and placement.state = 'current'
           where site.state in ('active', 'suspended')
               and (preview.expires_at < now()
                   or original.state = 'deleted'
                   or not exists (select from placement kept
                       where kept.site_id = original.id and kept.state <> 'retired'
                           and kept.object_store_id = placement.object_store_id))
               and not exists (select from operation where operation.site_id = site.id
                   and operation.state in ('queued', 'running', 'unwinding', 'stuck'))
           order by preview.expires_at limit 20"#
    )
    .fetch_all(control)
    .await
}
