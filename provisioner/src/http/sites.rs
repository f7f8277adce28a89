//! `/v1/sites`.

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use control_types::{
    Hostname, OperationId, SiteId, Slug,
    state::{DomainKind, OperationKind, SiteState},
};
use provisioner_api::sites::{
    Accepted, ChangeSite, CreateSite, DeleteSite, NewAccount, Role, Site,
};
use serde_json::json;
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::{
    control_db::{
        audit::{self, AuditEvent},
        clusters,
        domains::{self, ClaimHostnameError},
        instances, object_stores,
        operations::{self as records, InsertOperationError, NewOperation},
        places,
        sites::{self as records_of_sites, InsertSiteError, NewSite},
    },
    http::{
        Api,
        auth::Actor,
        refusal::Refusal,
        validate::{self, Body},
    },
    operations::{
        create_site::{CreateSite as Create, CreateSiteParams, SeedAccount},
        delete_site::{DeleteSite as Delete, DeleteSiteParams},
        dry_run,
    },
    secrets,
};

/// How long an invitation is good for.
const INVITATION: Duration = Duration::days(7);
/// Accounts that may come with a site.
const MAX_ACCOUNTS: usize = 50;

/// All sites that are not deleted.
pub async fn list(State(api): State<Api>) -> Result<Json<Vec<Site>>, Refusal> {
    Ok(Json(records_of_sites::list(&api.world.db.pool).await?))
}

/// One site.
pub async fn show(State(api): State<Api>, Path(site): Path<String>) -> Result<Json<Site>, Refusal> {
    Ok(Json(find(&api, &site).await?))
}

/// A request to create a site that has passed every check.
struct Checked {
    slug: Slug,
    name: String,
    allowed_regions: Vec<String>,
    default_language: &'static str,
    platform_hostname: Hostname,
    domain: Option<Hostname>,
}

/// Makes a site.
pub async fn create(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    headers: HeaderMap,
    Body(request): Body<CreateSite>,
) -> Result<Response, Refusal> {
    let key = idempotency_key(&headers)?;
    if let Some(known) = same_request(&api, key, OperationKind::CreateSite).await? {
        return Ok((StatusCode::ACCEPTED, Json(known)).into_response());
    }
    let checked = check(&api, &request).await?;
    let (accounts, invitation) = accounts(&request).await?;
    let params = CreateSiteParams {
        region: request.region.clone(),
        plan: request.plan.clone(),
        name: checked.name.clone(),
        default_language: checked.default_language.to_owned(),
        accounts,
    };
    if request.dry_run {
        refuse_if_taken(&api, &checked).await?;
        return Ok(Json(dry_run::<Create>(&params, 400)).into_response());
    }
    let site = SiteId::generate();
    let operation = OperationId::generate();
    let mut tx = api.world.db.pool.begin().await?;
    insert_site(&mut tx, site, &checked, &request.plan).await?;
    let new = NewOperation {
        id: operation,
        kind: OperationKind::CreateSite,
        site,
        params: to_json(&params)?,
        requested_by: &actor.0,
        reason: request.reason.as_deref(),
        idempotency_key: key,
    };
    let detail = json!({ "slug": checked.slug, "region": request.region, "plan": request.plan });
    insert_operation(&mut tx, &new, "site.create", detail).await?;
    tx.commit().await?;
    api.engine.nudge();
    let mut accepted = accepted(&api, operation).await?;
    if let Some(token) = invitation {
        let primary = checked.domain.as_ref().unwrap_or(&checked.platform_hostname);
        let url = places::site_url(&api.world.db.pool, &request.region, primary).await?;
        accepted.invitation_url = Some(format!("{url}/invitation/{token}"));
    }
    Ok((StatusCode::ACCEPTED, Json(accepted)).into_response())
}

async fn check(api: &Api, request: &CreateSite) -> Result<Checked, Refusal> {
    let pool = &api.world.db.pool;
    let slug = validate::slug(&request.slug)?;
    let name = validate::name("name", &request.name)?;
    let platform = &api.world.platform_domain;
    let platform_hostname = Hostname::on_platform(&slug, platform)
        .map_err(|error| Refusal::invalid("slug", error.to_string()))?;
    let domain = match &request.domain {
        None => None,
        Some(text) => Some(validate::custom_domain(text, platform)?),
    };
    let language = validate::language(request.default_language.as_deref().unwrap_or("id"))?;
    let regions = places::regions(pool).await?;
    let known = |name: &str| regions.iter().any(|region| region.name == name);
    let names = || regions.iter().map(|r| r.name.as_str()).collect::<Vec<_>>().join(", ");
    if !known(&request.region) {
        let detail =
            format!("there is no region '{}'; the regions are: {}", request.region, names());
        return Err(Refusal::invalid("region", detail));
    }
    let allowed = request.allowed_regions.clone().unwrap_or_else(|| vec![request.region.clone()]);
    if let Some(unknown) = allowed.iter().find(|region| !known(region)) {
        let detail = format!("there is no region '{unknown}'; the regions are: {}", names());
        return Err(Refusal::invalid("allowed_regions", detail));
    }
    if !allowed.contains(&request.region) {
        let detail = format!(
            "region '{}' is not among the site's allowed regions ({})",
            request.region,
            allowed.join(", ")
        );
        return Err(Refusal::invalid("region", detail));
    }
    let plans = places::plans(pool).await?;
    let Some(plan) = plans.iter().find(|plan| plan.name == request.plan) else {
        let names: Vec<_> = plans.iter().map(|plan| plan.name.as_str()).collect();
        let detail =
            format!("there is no plan '{}'; the plans are: {}", request.plan, names.join(", "));
        return Err(Refusal::invalid("plan", detail));
    };
    if domain.is_some() && plan.max_custom_domains == 0 {
        let detail = format!("plan '{}' has no domains of one's own", plan.name);
        return Err(Refusal::invalid("domain", detail));
    }
    // Whether it fits is decided by the operation; what is known to be down is told at once.
    let mut connection = pool.acquire().await?;
    clusters::choose_for_site(&mut connection, &request.region).await?.map_err(|refusal| {
        Refusal::unavailable(&refusal.component(), refusal.to_string()).field("region")
    })?;
    object_stores::choose_for_site(&mut connection, &request.region).await?.map_err(|refusal| {
        Refusal::unavailable(&refusal.component(), refusal.to_string()).field("region")
    })?;
    let allowed_regions = allowed;
    Ok(Checked {
        slug,
        name,
        allowed_regions,
        default_language: language,
        platform_hostname,
        domain,
    })
}

/// The accounts to seed, and the token of the administrator's invitation if there is no password.
async fn accounts(request: &CreateSite) -> Result<(Vec<SeedAccount>, Option<String>), Refusal> {
    if request.accounts.len() > MAX_ACCOUNTS {
        return Err(Refusal::invalid("accounts", format!("at most {MAX_ACCOUNTS} accounts")));
    }
    let mut invitation = None;
    let mut seeds: Vec<SeedAccount> = Vec::new();
    let administrator = NewAccount { role: Role::Admin, ..request.administrator.clone() };
    for (index, account) in std::iter::once(&administrator).chain(&request.accounts).enumerate() {
        let field = match index {
            0 => "administrator".to_owned(),
            _ => format!("accounts[{}]", index - 1),
        };
        let email = validate::email(&format!("{field}.email"), &account.email)?;
        if seeds.iter().any(|seed| seed.email.eq_ignore_ascii_case(&email)) {
            let detail = format!("'{email}' comes twice");
            return Err(Refusal::invalid(&format!("{field}.email"), detail));
        }
        let name = match &account.name {
            Some(name) => validate::name(&format!("{field}.name"), name)?,
            None => email.split('@').next().unwrap_or(&email).to_owned(),
        };
        let mut seed = SeedAccount {
            id: Uuid::now_v7(),
            email,
            name,
            role: account.role,
            password_hash: None,
            invitation_token_hash: None,
            invitation_expires_at: None,
        };
        if let Some(password) = &account.password {
            validate::password(&format!("{field}.password"), password)?;
            let hash = secrets::hash_password(password.clone()).await;
            seed.password_hash = Some(hash.map_err(|error| Refusal::internal(&error))?);
        } else if index == 0 {
            let token = secrets::random_text().map_err(|error| Refusal::internal(&error))?;
            seed.invitation_token_hash = Some(hex::encode(secrets::token_hash(&token)));
            seed.invitation_expires_at = Some(OffsetDateTime::now_utc() + INVITATION);
            invitation = Some(token);
        } else {
            let detail = "an account besides the administrator needs a password";
            return Err(Refusal::invalid(&format!("{field}.password"), detail));
        }
        seeds.push(seed);
    }
    Ok((seeds, invitation))
}

/// For a dry run: what recording would refuse.
async fn refuse_if_taken(api: &Api, checked: &Checked) -> Result<(), Refusal> {
    let mut tx = api.world.db.pool.begin().await?;
    insert_site(&mut tx, SiteId::generate(), checked, "starter").await?;
    tx.rollback().await?;
    Ok(())
}

async fn insert_site(
    connection: &mut PgConnection,
    site: SiteId,
    checked: &Checked,
    plan: &str,
) -> Result<(), Refusal> {
    let new = NewSite {
        id: site,
        slug: &checked.slug,
        name: &checked.name,
        plan,
        allowed_regions: &checked.allowed_regions,
        default_language: checked.default_language,
    };
    records_of_sites::insert(connection, &new).await.map_err(|error| match error {
        InsertSiteError::SlugTaken => Refusal::conflict(
            "slug-taken",
            "The slug is taken",
            format!("there is a site '{}' already; choose another slug", checked.slug),
        )
        .field("slug"),
        InsertSiteError::UnknownPlan => {
            Refusal::invalid("plan", format!("there is no plan '{plan}'"))
        }
        InsertSiteError::Database(error) => error.into(),
    })?;
    let own = checked.domain.as_ref().map(|name| (name, DomainKind::Custom, true));
    let platform = (&checked.platform_hostname, DomainKind::Platform, checked.domain.is_none());
    for (hostname, kind, is_primary) in std::iter::once(platform).chain(own) {
        domains::claim(connection, site, hostname, kind, is_primary).await.map_err(|error| {
            match error {
                ClaimHostnameError::Taken(hostname) => Refusal::conflict(
                    "hostname-taken",
                    "The hostname is taken",
                    format!("'{hostname}' belongs to another site"),
                )
                .field(if kind == DomainKind::Custom { "domain" } else { "slug" }),
                ClaimHostnameError::Database(error) => error.into(),
            }
        })?;
    }
    Ok(())
}

/// Deletes a site after its grace period.
pub async fn delete(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(site): Path<String>,
    headers: HeaderMap,
    Body(request): Body<DeleteSite>,
) -> Result<Response, Refusal> {
    let key = idempotency_key(&headers)?;
    if let Some(known) = same_request(&api, key, OperationKind::DeleteSite).await? {
        return Ok((StatusCode::ACCEPTED, Json(known)).into_response());
    }
    let site = find(&api, &site).await?;
    let pool = &api.world.db.pool;
    let grace_period_secs = match request.grace_period_secs {
        Some(secs) if secs < 0 => {
            return Err(Refusal::invalid("grace_period_secs", "a grace period is not negative"));
        }
        Some(secs) => secs,
        None => places::grace_period_secs(pool, &site.plan).await?.unwrap_or(0),
    };
    let params = DeleteSiteParams { grace_period_secs };
    if request.dry_run {
        refuse_if_not_deletable(site.state, &site)?;
        return Ok(Json(dry_run::<Delete>(&params, 2000)).into_response());
    }
    let operation = OperationId::generate();
    let mut tx = pool.begin().await?;
    let state = records_of_sites::lock_state(&mut tx, site.id).await?.unwrap_or(site.state);
    refuse_if_not_deletable(state, &site)?;
    let new = NewOperation {
        id: operation,
        kind: OperationKind::DeleteSite,
        site: site.id,
        params: to_json(&params)?,
        requested_by: &actor.0,
        reason: request.reason.as_deref(),
        idempotency_key: key,
    };
    let detail = json!({ "slug": site.slug, "grace_period_secs": grace_period_secs });
    insert_operation(&mut tx, &new, "site.delete", detail).await?;
    tx.commit().await?;
    api.engine.nudge();
    Ok((StatusCode::ACCEPTED, Json(accepted(&api, operation).await?)).into_response())
}

fn refuse_if_not_deletable(state: SiteState, site: &Site) -> Result<(), Refusal> {
    match state {
        SiteState::Active | SiteState::Suspended => Ok(()),
        SiteState::Creating | SiteState::Deleting | SiteState::Deleted => {
            let detail = format!("site '{}' is {state}", site.slug);
            Err(Refusal::conflict("wrong-state", "Not possible in this state", detail))
        }
    }
}

/// Closes a site that serves.
pub async fn suspend(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(site): Path<String>,
    Body(request): Body<ChangeSite>,
) -> Result<Json<Site>, Refusal> {
    change(&api, &actor, &site, &request, SiteState::Active, SiteState::Suspended).await
}

/// Opens a suspended site again.
pub async fn resume(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(site): Path<String>,
    Body(request): Body<ChangeSite>,
) -> Result<Json<Site>, Refusal> {
    change(&api, &actor, &site, &request, SiteState::Suspended, SiteState::Active).await
}

/// The one transition that needs no operation: it is a single transaction, and undone by its
/// opposite.
async fn change(
    api: &Api,
    actor: &Actor,
    site: &str,
    request: &ChangeSite,
    from: SiteState,
    to: SiteState,
) -> Result<Json<Site>, Refusal> {
    let site = find(api, site).await?;
    let mut tx = api.world.db.pool.begin().await?;
    let state = records_of_sites::lock_state(&mut tx, site.id).await?.unwrap_or(site.state);
    if state == to {
        return Ok(Json(site));
    }
    if state != from || site.live_operation.is_some() {
        let detail = match site.live_operation {
            Some(id) => format!("operation {id} on site '{}' is unfinished", site.slug),
            None => format!("site '{}' is {state}, not {from}", site.slug),
        };
        return Err(Refusal::conflict("wrong-state", "Not possible in this state", detail));
    }
    let reason = request.reason.as_deref();
    let action = if to == SiteState::Suspended {
        records_of_sites::suspend(&mut tx, site.id, reason).await?;
        instances::want_absent(&mut tx, site.id).await?;
        "site.suspend"
    } else {
        records_of_sites::set_state(&mut tx, site.id, &[from], to).await?;
        instances::want_listening(&mut tx, site.id).await?;
        "site.resume"
    };
    let event = AuditEvent {
        actor: &actor.0,
        action,
        site: Some(site.id),
        operation: None,
        reason,
        detail: json!({ "slug": site.slug }),
    };
    audit::append(&mut tx, event).await?;
    tx.commit().await?;
    api.nudges.all();
    Ok(Json(find(api, site.slug.as_str()).await?))
}

async fn insert_operation(
    connection: &mut PgConnection,
    new: &NewOperation<'_>,
    action: &str,
    detail: serde_json::Value,
) -> Result<(), Refusal> {
    records::insert(connection, new).await.map_err(|error| match error {
        InsertOperationError::SiteBusy => Refusal::conflict(
            "operation-in-progress",
            "The site is busy",
            "another operation on this site is unfinished; wait for it or cancel it",
        ),
        InsertOperationError::Repeated => Refusal::conflict(
            "repeated",
            "The same request is being recorded",
            "the same idempotency key was just used; ask again",
        ),
        InsertOperationError::Database(error) => error.into(),
    })?;
    let event = AuditEvent {
        actor: new.requested_by,
        action,
        site: Some(new.site),
        operation: Some(new.id),
        reason: new.reason,
        detail,
    };
    Ok(audit::append(connection, event).await?)
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=200).contains(&key.len()) => Ok(Some(key)),
        _ => Err(Refusal::invalid(
            "idempotency-key",
            "an idempotency key has 1 to 200 printable ASCII characters",
        )),
    }
}

/// What an earlier request with the same key began.
async fn same_request(
    api: &Api,
    key: Option<&str>,
    kind: OperationKind,
) -> Result<Option<Accepted>, Refusal> {
    let Some(key) = key else { return Ok(None) };
    let Some(id) = records::by_key(&api.world.db.pool, key).await? else { return Ok(None) };
    let known = accepted(api, id).await?;
    if known.operation.kind != kind {
        return Err(Refusal::conflict(
            "key-reused",
            "The idempotency key was used for something else",
            format!("operation {id} has this key; use a new one"),
        )
        .field("idempotency-key"));
    }
    Ok(Some(known))
}

async fn accepted(api: &Api, id: OperationId) -> Result<Accepted, Refusal> {
    let pool = &api.world.db.pool;
    let refuse = || Refusal::not_found("operation", &id.to_string());
    let operation = records::get(pool, id).await?.ok_or_else(refuse)?;
    let site = records_of_sites::get(pool, operation.site_id).await?.ok_or_else(refuse)?;
    Ok(Accepted { operation, site, invitation_url: None })
}

async fn find(api: &Api, site: &str) -> Result<Site, Refusal> {
    let pool = &api.world.db.pool;
    let refuse = || Refusal::not_found("site", site);
    let id = records_of_sites::find(pool, site).await?.ok_or_else(refuse)?;
    records_of_sites::get(pool, id).await?.ok_or_else(refuse)
}

fn to_json(params: &impl serde::Serialize) -> Result<serde_json::Value, Refusal> {
    serde_json::to_value(params).map_err(|error| Refusal::internal(&error))
}
