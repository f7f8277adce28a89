//! `api_token`: who may talk to the provisioner. Only hashes of tokens are stored.

use sqlx::PgPool;
use uuid::Uuid;

use crate::secrets::token_hash;

/// The holder of a token that is valid now, if there is one.
///
/// # Errors
/// When the database does not answer.
pub async fn holder(pool: &PgPool, token: &str) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar!(
        "select name from api_token
         where token_hash = $1 and revoked_at is null
             and (expires_at is null or expires_at > now())",
        &token_hash(token)[..],
    )
    .fetch_optional(pool)
    .await
}

/// Makes `token` valid for `name`, in the place of the one that it had.
///
/// # Errors
/// When the database does not answer.
pub async fn put(pool: &PgPool, name: &str, token: &str) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into api_token (id, name, token_hash) values ($1, $2, $3)
         on conflict (name) do update set token_hash = excluded.token_hash",
        Uuid::now_v7(),
        name,
        &token_hash(token)[..],
    )
    .execute(pool)
    .await?;
    Ok(())
}
