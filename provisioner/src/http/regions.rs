//! `POST /v1/sites/{site}/regions`: where a site's data may be.

use axum::{
    Extension, Json,
    extract::{Path, State},
};
use provisioner_api::{Site, sites::ChangeRegions};
use serde_json::json;

use crate::{
    control_db::{
        audit::{self, AuditEvent},
        places, sites as records,
    },
    http::{Api, auth::Actor, refusal::Refusal, sites::find, validate::Body},
};

/// Changes it. The control database itself refuses to forbid a region where something of the site is.
pub async fn change(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(site): Path<String>,
    Body(request): Body<ChangeRegions>,
) -> Result<Json<Site>, Refusal> {
    let pool = &api.world.db.pool;
    let known: Vec<String> =
        places::regions(pool).await?.into_iter().map(|region| region.name).collect();
    for (field, named) in [("allow", &request.allow), ("forbid", &request.forbid)] {
        if let Some(unknown) = named.iter().find(|region| !known.contains(region)) {
            let detail = format!("there is no region '{unknown}'; there are {}", known.join(", "));
            return Err(Refusal::invalid(field, detail));
        }
    }
    if let Some(both) = request.allow.iter().find(|region| request.forbid.contains(region)) {
        return Err(Refusal::invalid("forbid", format!("'{both}' is allowed in the same request")));
    }
    let id = find(&api, &site).await?.id;
    let mut tx = pool.begin().await?;
    records::lock_state(&mut tx, id).await?;
    // Read behind the lock: two changes at once both count.
    let site = find(&api, &id.to_string()).await?;
    let mut regions = site.allowed_regions.clone();
    regions.extend(request.allow.iter().cloned());
    regions.retain(|region| !request.forbid.contains(region));
    regions.sort();
    regions.dedup();
    if regions.is_empty() {
        return Err(Refusal::invalid("forbid", "a site may be in one region at least"));
    }
    if !records::set_regions(&mut tx, site.id, &regions).await? {
        let detail = format!(
            "something of site '{}' is in {}: move it away, and settle the move, first; and remove \
             previews of it that are there",
            site.slug,
            request.forbid.join(", ")
        );
        return Err(Refusal::conflict("region-in-use", "The region is in use", detail));
    }
    let event = AuditEvent {
        actor: &actor.0,
        action: "site.regions",
        site: Some(site.id),
        operation: None,
        reason: request.reason.as_deref(),
        detail: json!({ "slug": site.slug, "before": site.allowed_regions, "after": regions }),
    };
    audit::append(&mut tx, event).await?;
    tx.commit().await?;
    Ok(Json(find(&api, site.slug.as_str()).await?))
}
