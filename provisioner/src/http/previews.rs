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
use control_types::{Hostname, OperationId, state::OperationKind};
use provisioner_api::{
    Site,
    previews::{AcceptedPreview, CreatePreview, Preview},
};
use time::{Duration, OffsetDateTime};

use crate::{
    control_db::{
        operations as records, places,
        previews::{self, PreviewRow, Which},
    },
    http::{
        Api,
        asked::plan,
        auth::Actor,
        refusal::Refusal,
        sites::{accepted, find, idempotency_key, refuse_preview, same_request},
        validate::Body,
    },
    operations::create_preview::{CreatePreview as Create, CreatePreviewParams},
    previews::{self as making, Wanted},
    secrets::PreviewKey,
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
    let past = making::past(&api.world, &site, moment, now).await?;
    if request.dry_run {
        let plan = plan::<Create>(&api, &CreatePreviewParams { past }).await?;
        return Ok(Json(plan).into_response());
    }
    let wanted = Wanted {
        of: &site,
        past,
        expires_at: now + Duration::seconds(keep_secs.into()),
        actor: &actor.0,
        reason: request.reason.as_deref(),
        idempotency_key: key,
        is_proof: false,
    };
    let operation = making::make(&api.world, wanted).await?;
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
