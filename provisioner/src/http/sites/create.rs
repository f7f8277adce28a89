//! `POST /v1/sites`.

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use control_types::{
    Hostname, OperationId, SiteId, Slug,
    state::{DomainKind, OperationKind},
};
use provisioner_api::sites::{CreateSite, NewAccount, Role};
use serde_json::json;
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::{accepted, idempotency_key, insert_operation, same_request, to_json};
use crate::{
    control_db::{
        clusters,
        domains::{self, ClaimHostnameError},
        object_stores,
        operations::{self as records, NewOperation},
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
        dry_run,
    },
    secrets::{self, InvitationToken},
};

/// How long an invitation is good for.
const INVITATION: Duration = Duration::days(7);
/// Accounts that may come with a site.
const MAX_ACCOUNTS: usize = 50;

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
    if let Some(mut known) = same_request(&api, key, OperationKind::CreateSite).await? {
        known.invitation_url = invitation_again(&api, known.operation.id).await?;
        return Ok((StatusCode::ACCEPTED, Json(known)).into_response());
    }
    let checked = check(&api, &request).await?;
    let (accounts, invitation) = accounts(&request).await?;
    let operation = OperationId::generate();
    let sealed_invitation = invitation.as_ref().map(|token| {
        api.world.keys.seal(&request.region, operation.0, &InvitationToken(token.clone()))
    });
    let sealed_invitation = sealed_invitation.transpose().map_err(|e| Refusal::internal(&e))?;
    let params = CreateSiteParams {
        region: request.region.clone(),
        plan: request.plan.clone(),
        name: checked.name.clone(),
        default_language: checked.default_language.to_owned(),
        accounts,
        sealed_invitation: sealed_invitation.map(hex::encode),
    };
    if request.dry_run {
        refuse_if_taken(&api, &checked).await?;
        let took = records::typical_ms(&api.world.db.pool, OperationKind::CreateSite).await?;
        return Ok(Json(dry_run::<Create>(&params, took)).into_response());
    }
    let site = SiteId::generate();
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
    accepted.invitation_url = invitation_again(&api, operation).await?;
    Ok((StatusCode::ACCEPTED, Json(accepted)).into_response())
}

/// The administrator's invitation of an operation that created a site, for whoever asked for it and
/// may not have got the first answer. The token lies sealed in the operation's parameters.
async fn invitation_again(api: &Api, operation: OperationId) -> Result<Option<String>, Refusal> {
    let pool = &api.world.db.pool;
    let (site, params) = records::params(pool, operation).await?;
    let params: CreateSiteParams =
        serde_json::from_value(params).map_err(|error| Refusal::internal(&error))?;
    let Some(sealed) = params.sealed_invitation.and_then(|text| hex::decode(text).ok()) else {
        return Ok(None);
    };
    let token: InvitationToken = api
        .world
        .keys
        .open(&params.region, operation.0, &sealed)
        .map_err(|error| Refusal::internal(&error))?;
    let Some(primary) = domains::primary(pool, site).await? else { return Ok(None) };
    let primary: Hostname = primary.parse().map_err(|error| Refusal::internal(&error))?;
    let url = places::site_url(pool, &params.region, &primary).await?;
    Ok(Some(format!("{url}/invitation/{}", token.0)))
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
        Some(text) => Some(validate::custom_domain("domain", text, platform)?),
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
                ClaimHostnameError::Taken(hostname) | ClaimHostnameError::Repeated(hostname) => {
                    Refusal::conflict(
                        "hostname-taken",
                        "The hostname is taken",
                        format!("'{hostname}' belongs to another site"),
                    )
                    .field(if kind == DomainKind::Custom {
                        "domain"
                    } else {
                        "slug"
                    })
                }
                ClaimHostnameError::Database(error) => error.into(),
            }
        })?;
    }
    Ok(())
}
