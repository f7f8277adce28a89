//! The first time somebody comes: behind the link of an invitation a password is chosen, and the
//! person is in. A link is good once and for a limited time.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{Role, passwords, sign_in};
use crate::{form::Form, rejection::Rejection, site::Site, values, visit::Visit};

struct Invited {
    account: Uuid,
    name: String,
    email: String,
    role: Role,
}

/// The form.
#[derive(Deserialize)]
pub struct Choice {
    password: String,
    again: String,
}

/// `GET /invitation/{token}`
pub async fn ask(visit: Visit, Path(token): Path<String>) -> Result<Response, Rejection> {
    // The site's invitations came with it into a preview, and nobody can accept one there.
    if visit.site.preview.is_some() {
        return Err(Rejection::NotFound);
    }
    match find(&visit.site, &token).await? {
        Some(invited) => page(&visit, &token, &invited, None),
        None => expired(&visit),
    }
}

/// `POST /invitation/{token}`
pub async fn accept(
    State(site): State<Arc<Site>>,
    Path(token): Path<String>,
    Form(visit, choice): Form<Choice>,
) -> Result<Response, Rejection> {
    let Some(invited) = find(&site, &token).await? else { return expired(&visit) };
    let weakness = passwords::weakness(&choice.password, &[&invited.email, &invited.name]);
    let differs = (choice.password != choice.again).then_some("passwords-differ");
    if let Some(problem) = weakness.or(differs) {
        let page = page(&visit, &token, &invited, Some(problem))?;
        return Ok((StatusCode::UNPROCESSABLE_ENTITY, page).into_response());
    }
    let hash = site.passwords.hash(choice.password).await?;
    let mut transaction = site.database().await?.begin().await?;
    // Whoever marks the token wins; a second click finds it used.
    let won = sqlx::query!(
        "update one_time_token set used_at = now()
         where token_hash = $1 and used_at is null and expires_at > now()",
        &hash_of(&token)[..]
    )
    .execute(&mut *transaction)
    .await?;
    if won.rows_affected() == 0 {
        return expired(&visit);
    }
    sqlx::query!(
        "update account set password_hash = $2, state = 'active', updated_at = now(),
             email_verified_at = coalesce(email_verified_at, now())
         where id = $1 and state = 'invited'",
        invited.account,
        hash
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    let home = if invited.role.teaches() { "/studio" } else { "/courses" };
    sign_in::begin(&visit, invited.account, home).await
}

fn hash_of(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

async fn find(site: &Site, token: &str) -> Result<Option<Invited>, Rejection> {
    let invited = sqlx::query_as!(
        Invited,
        r#"select a.id as account, a.name, a.email, a.role as "role: Role"
           from one_time_token t join account a on a.id = t.account_id
           where t.token_hash = $1 and t.purpose = 'invitation' and t.used_at is null
             and t.expires_at > now() and a.state = 'invited'"#,
        &hash_of(token)[..]
    )
    .fetch_optional(site.database().await?)
    .await?;
    Ok(invited)
}

fn page(
    visit: &Visit,
    token: &str,
    invited: &Invited,
    problem: Option<&str>,
) -> Result<Response, Rejection> {
    let values = values! {
        token, problem, name => &invited.name, email => &invited.email,
        least => passwords::MIN_CHARS, expired => false,
    };
    visit.page("accounts/invitation.html", values)
}

fn expired(visit: &Visit) -> Result<Response, Rejection> {
    let page = visit.page("accounts/invitation.html", values! { expired => true })?;
    Ok((StatusCode::GONE, page).into_response())
}
