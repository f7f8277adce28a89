//! Who is signed in: a random secret in a cookie, its hash in the database. A new secret at every
//! sign-in; signing out and disabling an account end it at once.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderValue};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use sqlx::PgPool;
use uuid::Uuid;

use super::{Account, Role};
use crate::{rejection::Rejection, visit::cookie};

const COOKIE: &str = "__Host-session";
/// A session that is not used for so long ends.
const DAYS: i32 = 14;

/// What the cookie holds.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// From the request's cookie, if it is one.
    pub fn from_cookies(headers: &HeaderMap) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(cookie(headers, COOKIE)?).ok()?;
        bytes.try_into().ok().map(Self)
    }

    /// The bytes, for what is derived from them.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0).into()
    }

    /// The cookie that gives the secret to the browser.
    pub fn cookie(&self) -> Option<HeaderValue> {
        let value = URL_SAFE_NO_PAD.encode(self.0);
        let seconds = DAYS * 24 * 60 * 60;
        HeaderValue::try_from(format!(
            "{COOKIE}={value}; Path=/; Max-Age={seconds}; Secure; HttpOnly; SameSite=Lax"
        ))
        .ok()
    }
}

/// The cookie that makes the browser forget.
pub fn forgotten() -> HeaderValue {
    HeaderValue::from_static("__Host-session=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax")
}

/// Begins a session.
///
/// # Errors
/// When the database refuses.
pub async fn begin(
    database: &PgPool,
    account: Uuid,
    address: Option<IpAddr>,
    user_agent: &str,
) -> Result<Secret, Rejection> {
    let secret = Secret(rand::random());
    sqlx::query!(
        "insert into session (id_hash, account_id, expires_at, address, user_agent)
         values ($1, $2, now() + make_interval(days => $3), $4::text::inet, $5)",
        &secret.hash()[..],
        account,
        DAYS,
        address.map(|address| address.to_string()),
        user_agent
    )
    .execute(database)
    .await?;
    sqlx::query!("update account set last_sign_in_at = now() where id = $1", account)
        .execute(database)
        .await?;
    sqlx::query!("delete from session where account_id = $1 and expires_at < now()", account)
        .execute(database)
        .await?;
    Ok(secret)
}

/// Whose session it is.
///
/// # Errors
/// When the database does not answer.
pub async fn account(database: &PgPool, secret: &Secret) -> Result<Option<Account>, Rejection> {
    let hash = secret.hash();
    let row = sqlx::query!(
        r#"select a.id, a.name, a.email, a.role as "role: Role", a.language,
                  s.last_seen_at < now() - interval '1 hour' as "stale!"
           from session s join account a on a.id = s.account_id
           where s.id_hash = $1 and s.expires_at > now() and a.state = 'active'"#,
        &hash[..]
    )
    .fetch_optional(database)
    .await?;
    let Some(row) = row else { return Ok(None) };
    if row.stale {
        // While the site moves nothing can be written, and reading goes on.
        let _ = sqlx::query!(
            "update session set last_seen_at = now(), expires_at = now() + make_interval(days => $2)
             where id_hash = $1",
            &hash[..],
            DAYS
        )
        .execute(database)
        .await;
    }
    Ok(Some(Account {
        id: row.id,
        name: row.name,
        email: row.email,
        role: row.role,
        language: row.language.as_deref().and_then(crate::locales::Language::from_code),
        teaches: row.role.teaches(),
    }))
}

/// Ends a session.
///
/// # Errors
/// When the database refuses.
pub async fn end(database: &PgPool, secret: &Secret) -> Result<(), Rejection> {
    sqlx::query!("delete from session where id_hash = $1", &secret.hash()[..])
        .execute(database)
        .await?;
    Ok(())
}
