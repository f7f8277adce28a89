//! Slows guessing down: attempts to sign in are counted per account and per address before the
//! password is looked at, so that many at once do not slip through.

use std::net::IpAddr;

use sha2::{Digest as _, Sha256};
use sqlx::PgPool;

use crate::rejection::Rejection;

const WINDOW_SECS: f64 = 15.0 * 60.0;
const PER_ACCOUNT: i32 = 10;
/// A school may come from one address.
const PER_ADDRESS: i32 = 100;

/// Counts one attempt.
///
/// # Errors
/// [`Rejection::Throttled`] when there were too many.
pub async fn count(
    database: &PgPool,
    email: &str,
    address: Option<IpAddr>,
) -> Result<(), Rejection> {
    let account = attempt(database, &account_key(email)).await?;
    let from = match address {
        Some(address) => attempt(database, &key("address", &address.to_string())).await?,
        None => (0, 0),
    };
    let over = [(account, PER_ACCOUNT), (from, PER_ADDRESS)];
    match over
        .into_iter()
        .filter(|((attempts, _), most)| attempts > most)
        .map(|((_, wait), _)| wait)
        .max()
    {
        Some(wait) => Err(Rejection::Throttled(u32::try_from(wait).unwrap_or(1).max(1))),
        None => Ok(()),
    }
}

/// Forgets the account's attempts: it signed in.
///
/// # Errors
/// When the database refuses.
pub async fn forget(database: &PgPool, email: &str) -> Result<(), Rejection> {
    sqlx::query!("delete from sign_in_throttle where key = $1", &account_key(email)[..])
        .execute(database)
        .await?;
    sqlx::query!("delete from sign_in_throttle where window_started_at < now() - interval '1 day'")
        .execute(database)
        .await?;
    Ok(())
}

/// Attempts in the window with this one, and the seconds until the window ends.
async fn attempt(database: &PgPool, key: &[u8]) -> Result<(i32, i32), Rejection> {
    let row = sqlx::query!(
        r#"insert into sign_in_throttle as t (key, attempts) values ($1, 1)
           on conflict (key) do update set
               attempts = case when t.window_started_at < now() - make_interval(secs => $2) then 1
                               else t.attempts + 1 end,
               window_started_at = case
                   when t.window_started_at < now() - make_interval(secs => $2) then now()
                   else t.window_started_at end
           returning attempts,
               extract(epoch from window_started_at + make_interval(secs => $2) - now())::int
                   as "wait!""#,
        key,
        WINDOW_SECS
    )
    .fetch_one(database)
    .await?;
    Ok((row.attempts, row.wait))
}

fn account_key(email: &str) -> [u8; 32] {
    key("account", email)
}

fn key(kind: &str, value: &str) -> [u8; 32] {
    Sha256::digest(format!("{kind}:{value}")).into()
}
