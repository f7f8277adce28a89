//! Signing in and out. The answer is the same, in words and in time, whether there is such an
//! account or not.

use std::sync::Arc;

use axum::{
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse as _, Redirect, Response},
};
use serde::Deserialize;

use super::{normal_email, sessions, throttle};
use crate::{
    form::{Form, Nothing},
    rejection::Rejection,
    site::Site,
    values,
    visit::{Visit, local_path},
};

/// Where to go once signed in.
#[derive(Deserialize)]
pub struct Next {
    next: Option<String>,
}

/// The form.
#[derive(Deserialize)]
pub struct Credentials {
    email: String,
    password: String,
    next: Option<String>,
}

/// `GET /sign-in`
pub async fn ask(visit: Visit, Query(query): Query<Next>) -> Result<Response, Rejection> {
    let next = query.next.as_deref().map_or_else(String::new, local_path);
    if visit.account.is_some() {
        return Ok(Redirect::to(if next.is_empty() { "/" } else { &next }).into_response());
    }
    page(&visit, &next, "", false)
}

fn page(visit: &Visit, next: &str, email: &str, failed: bool) -> Result<Response, Rejection> {
    visit.page("accounts/sign_in.html", values! { next, email, failed })
}

/// `POST /sign-in`
pub async fn sign_in(
    State(site): State<Arc<Site>>,
    Form(visit, form): Form<Credentials>,
) -> Result<Response, Rejection> {
    let email = normal_email(&form.email);
    let next = form.next.as_deref().filter(|next| !next.is_empty()).map(local_path);
    if form.password.len() > super::passwords::MAX_BYTES || email.len() > 254 {
        return failed(&visit, next.as_deref(), &form.email);
    }
    let database = site.database().await?;
    throttle::count(database, &email, visit.address).await?;
    let account = sqlx::query!(
        r#"select id, password_hash, role as "role: super::Role" from account
           where email = $1 and state = 'active'"#,
        email
    )
    .fetch_optional(database)
    .await?;
    let hash = account.as_ref().and_then(|account| account.password_hash.clone());
    let right = site.passwords.verify(form.password, hash).await?;
    let Some(account) = account.filter(|_| right) else {
        return failed(&visit, next.as_deref(), &form.email);
    };
    throttle::forget(database, &email).await?;
    let home = if account.role.teaches() { "/studio" } else { "/my-courses" };
    let to = next.unwrap_or_else(|| home.to_owned());
    begin(&visit, account.id, &to).await
}

fn failed(visit: &Visit, next: Option<&str>, email: &str) -> Result<Response, Rejection> {
    let page = page(visit, next.unwrap_or_default(), email, true)?;
    Ok((StatusCode::UNPROCESSABLE_ENTITY, page).into_response())
}

/// Ends the old session, begins one, and goes on.
pub(super) async fn begin(
    visit: &Visit,
    account: uuid::Uuid,
    next: &str,
) -> Result<Response, Rejection> {
    let database = visit.site.database().await?;
    if let Some(old) = &visit.session {
        sessions::end(database, old).await?;
    }
    let secret = sessions::begin(database, account, visit.address, &visit.user_agent).await?;
    let mut response = Redirect::to(next).into_response();
    if let Some(cookie) = secret.cookie() {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

/// `POST /sign-out`
pub async fn sign_out(Form(visit, Nothing {}): Form<Nothing>) -> Result<Response, Rejection> {
    if let Some(secret) = &visit.session {
        sessions::end(visit.site.database().await?, secret).await?;
    }
    let mut response = Redirect::to("/").into_response();
    response.headers_mut().append(header::SET_COOKIE, sessions::forgotten());
    Ok(response)
}
