//! `/v1/sites/{site}/previews` and `/v1/previews`: sites as they were at some moment. What is done with one
//! that is there is in `use_of`.

mod use_of;

pub use use_of::{compare, promote, undo};

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use control_types::{
    Hostname, OperationId, SiteId, Slug,
    state::{DomainKind, OperationKind},
};
use provisioner_api::{
    Site,
    previews::{AcceptedPreview, CreatePreview, Preview},
    sites::DryRun,
};
use serde_json::json;
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};

use crate::{
    backups,
    control_db::{
        cluster_backups, domains,
        operations::{self as records, NewOperation},
        placement_terms, places,
        previews::{self, NewPreview, PreviewRow, Which},
        sites::{self as records_of_sites, NewSite},
    },
    durations::second,
    http::{
        Api,
        auth::Actor,
        refusal::Refusal,
        sites::{
            accepted, find, idempotency_key, insert_operation, refuse_preview, same_request,
            to_json,
        },
        validate::Body,
    },
    operations::{
        create_preview::{CreatePreview as Create, CreatePreviewParams},
        dry_run,
        restoring::Past,
    },
    secrets::{self, PreviewKey},
};

/// How long a preview is kept unless another time is asked for, in seconds.
const KEPT: u32 = 86_400;
/// The shortest and the longest time that can be asked for, in seconds.
const SHORTEST: u32 = 60;
const LONGEST: u32 = 14 * 86_400;

/// All previews that are there, the newest first.
pub async fn list_all(State(api): State<Api>) -> Result<Json<Vec<Preview>>, Refusal> {
    shown(&api, Which::All).await.map(Json)
}

/// Those of a site.
pub async fn list(
    State(api): State<Api>,
    Path(site): Path<String>,
) -> Result<Json<Vec<Preview>>, Refusal> {
    let site = find(&api, &site).await?;
    shown(&api, Which::Of(site.id)).await.map(Json)
}

async fn shown(api: &Api, which: Which) -> Result<Vec<Preview>, Refusal> {
    let mut all = Vec::new();
    for row in previews::list(&api.world.db.pool, which).await? {
        all.push(show(api, row).await?);
    }
    Ok(all)
}

async fn show(api: &Api, row: PreviewRow) -> Result<Preview, Refusal> {
    let key: PreviewKey = api
        .world
        .keys
        .open(&row.region, row.site.0, &row.sealed_key)
        .map_err(|error| Refusal::internal(&error))?;
    let link = match row.hostname {
        Some(hostname) => {
            let hostname: Hostname = hostname.parse().map_err(|error| Refusal::internal(&error))?;
            let url = places::site_url(&api.world.db.pool, &row.region, &hostname).await?;
            format!("{url}/preview?key={}", key.0)
        }
        // It is gone.
        None => String::new(),
    };
    Ok(Preview {
        id: row.site,
        slug: row.slug.parse().map_err(|error| Refusal::internal(&error))?,
        of: row.of,
        of_slug: row.of_slug,
        moment: row.moment,
        link,
        state: row.state,
        live_operation: row.live_operation,
        created_by: row.created_by,
        created_at: row.created_at,
        expires_at: row.expires_at,
    })
}

/// Makes a preview.
pub async fn create(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(site): Path<String>,
    headers: HeaderMap,
    Body(request): Body<CreatePreview>,
) -> Result<Response, Refusal> {
    let key = idempotency_key(&headers)?;
    if let Some(known) = same_request(&api, key, OperationKind::CreatePreview).await? {
        return answer(&api, known.operation.id).await;
    }
    let site = find(&api, &site).await?;
    refuse_preview(&site)?;
    let keep_secs = request.keep_secs.unwrap_or(KEPT);
    if !(SHORTEST..=LONGEST).contains(&keep_secs) {
        let detail = format!("a preview is kept for {SHORTEST} to {LONGEST} seconds");
        return Err(Refusal::invalid("keep_secs", detail));
    }
    let now = OffsetDateTime::now_utc();
    let moment = moment(&api, &site, &request).await?;
    let params = params_of(&api, &site, moment, now).await?;
    if request.dry_run {
        return plan(&api, &params).await;
    }
    let operation = OperationId::generate();
    let new = Making {
        id: SiteId::generate(),
        of: &site,
        params: &params,
        actor: &actor.0,
        expires_at: now + Duration::seconds(keep_secs.into()),
    };
    let mut tx = api.world.db.pool.begin().await?;
    insert(&api, &mut tx, &new).await?;
    let recorded = NewOperation {
        id: operation,
        kind: OperationKind::CreatePreview,
        site: new.id,
        params: to_json(&params)?,
        requested_by: &actor.0,
        reason: request.reason.as_deref(),
        idempotency_key: key,
    };
    let detail = json!({
        "of": site.id, "slug": site.slug, "moment": moment.unix_timestamp(),
        "cluster": params.past.cluster_name,
    });
    insert_operation(&mut tx, &recorded, "preview.create", detail).await?;
    tx.commit().await?;
    api.engine.nudge();
    answer(&api, operation).await
}

async fn answer(api: &Api, operation: OperationId) -> Result<Response, Refusal> {
    let accepted = accepted(api, operation).await?;
    let mut itself = shown(api, Which::Itself(accepted.site.id)).await?;
    let missing = || Refusal::not_found("preview", accepted.site.slug.as_str());
    let preview = itself.pop().ok_or_else(missing)?;
    let answer = AcceptedPreview { operation: accepted.operation, preview };
    Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
}

async fn plan(api: &Api, params: &CreatePreviewParams) -> Result<Response, Refusal> {
    let pool = &api.world.db.pool;
    let took = records::typical_ms(pool, OperationKind::CreatePreview).await?;
    let plan: DryRun = dry_run::<Create>(params, took);
    Ok(Json(plan).into_response())
}

/// The moment that was asked for.
async fn moment(
    api: &Api,
    site: &Site,
    request: &CreatePreview,
) -> Result<OffsetDateTime, Refusal> {
    let id = match (request.at, request.before_operation) {
        (Some(at), None) => return Ok(at),
        (None, Some(id)) => id,
        _ => {
            let detail = "give either the moment (`at`) or an operation (`before_operation`)";
            return Err(Refusal::invalid("at", detail));
        }
    };
    let operation = records::get(&api.world.db.pool, id).await?;
    let operation = operation.ok_or_else(|| Refusal::not_found("operation", &id.to_string()))?;
    if operation.site_id != site.id {
        let detail = format!("operation {id} was on site {}, not on {}", operation.site, site.slug);
        return Err(Refusal::invalid("before_operation", detail));
    }
    Ok(operation.created_at)
}

/// Where the site was at that moment, if it can be brought back from there.
async fn params_of(
    api: &Api,
    site: &Site,
    moment: OffsetDateTime,
    now: OffsetDateTime,
) -> Result<CreatePreviewParams, Refusal> {
    let pool = &api.world.db.pool;
    let refuse = |why: String| {
        let at = second(moment);
        let detail = format!("site {} cannot be shown as it was at {at}: {why}", site.slug);
        Refusal::conflict("out-of-reach", "That moment cannot be brought back", detail).field("at")
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
    let past = Past {
        of: site.id,
        moment,
        region: term.region,
        cluster: term.cluster,
        cluster_name: term.cluster_name,
        database: term.database.parse().map_err(|error| Refusal::internal(&error))?,
        object_store: term.object_store,
    };
    Ok(CreatePreviewParams { past })
}

/// A preview that is about to be recorded.
struct Making<'a> {
    id: SiteId,
    of: &'a Site,
    params: &'a CreatePreviewParams,
    actor: &'a str,
    expires_at: OffsetDateTime,
}

async fn insert(api: &Api, connection: &mut PgConnection, new: &Making<'_>) -> Result<(), Refusal> {
    let key = secrets::random_text().map_err(|error| Refusal::internal(&error))?;
    let key_hash = secrets::token_hash(&key);
    let region = &new.params.past.region;
    let sealed_key = api.world.keys.seal(region, new.id.0, &PreviewKey(key));
    let sealed_key = sealed_key.map_err(|error| Refusal::internal(&error))?;
    let slug = slug(new.id)?;
    let hostname = Hostname::on_platform(&slug, &api.world.platform_domain)
        .map_err(|error| Refusal::internal(&error))?;
    let site = NewSite {
        id: new.id,
        slug: &slug,
        name: &new.of.name,
        plan: &new.of.plan,
        allowed_regions: &new.of.allowed_regions,
        default_language: &new.of.default_language,
    };
    let inserted = records_of_sites::insert(connection, &site).await;
    inserted.map_err(|error| Refusal::internal(&error))?;
    let claimed = domains::claim(connection, new.id, &hostname, DomainKind::Platform, true).await;
    claimed.map_err(|error| Refusal::internal(&error))?;
    let preview = NewPreview {
        site: new.id,
        of: new.of.id,
        moment: new.params.past.moment,
        region,
        sealed_key: &sealed_key,
        key_hash: &key_hash,
        created_by: new.actor,
        expires_at: new.expires_at,
    };
    Ok(previews::insert(connection, &preview).await?)
}

/// Says nothing of the site that it shows.
fn slug(id: SiteId) -> Result<Slug, Refusal> {
    let digits = id.0.simple().to_string();
    // The last ones: the first ones are the time.
    let digits = &digits[digits.len() - 10..];
    format!("{}{digits}", control_types::slug::PREVIEW)
        .parse()
        .map_err(|error| Refusal::internal(&error))
}
