//! Choosing a language: kept in a cookie, and in the profile of whoever is signed in.

use axum::{
    body::Bytes,
    http::{HeaderValue, header},
    response::{IntoResponse as _, Redirect, Response},
};

use crate::{
    locales::{COOKIE, Language},
    rejection::Rejection,
    visit::{Visit, local_path},
};

/// `POST /language`. The one form without a token: visitors without any cookie use it, and all that
/// a forger could do is what `csrf::same_origin` stops already.
pub async fn choose(visit: Visit, body: Bytes) -> Result<Response, Rejection> {
    let mut code = String::new();
    let mut next = "/".to_owned();
    for (name, value) in url::form_urlencoded::parse(&body) {
        match &*name {
            "language" => code = value.into_owned(),
            "next" => next = local_path(&value),
            _ => {}
        }
    }
    let language = Language::from_code(&code)
        .ok_or_else(|| Rejection::Invalid("invalid-language", code.clone()))?;
    if let Some(account) = &visit.account {
        sqlx::query!(
            "update account set language = $2, updated_at = now() where id = $1",
            account.id,
            language.code()
        )
        .execute(visit.site.database().await?)
        .await?;
    }
    let mut response = Redirect::to(&next).into_response();
    let cookie = format!(
        "{COOKIE}={}; Path=/; Max-Age=31536000; Secure; HttpOnly; SameSite=Lax",
        language.code()
    );
    if let Ok(cookie) = HeaderValue::try_from(cookie) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}
