//! `acme_account`: our accounts at certificate authorities, with the budget of each.

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::acme::schedule::{Allowance, Budget};

/// An account as stored.
#[derive(Clone, Debug)]
pub struct AcmeAccount {
    /// Its id; the credentials are sealed for the row of this id.
    pub id: Uuid,
    /// Sealed with the ring of the account's region.
    pub sealed_credentials: Vec<u8>,
}

/// The account at an authority for a region.
///
/// # Errors
/// When the database does not answer.
pub async fn get(
    connection: &mut PgConnection,
    directory_url: &str,
    region: &str,
) -> Result<Option<AcmeAccount>, sqlx::Error> {
    sqlx::query_as!(
        AcmeAccount,
        "select id, sealed_credentials from acme_account
         where directory_url = $1 and region = $2",
        directory_url,
        region
    )
    .fetch_optional(connection)
    .await
}

/// Lets only one provisioner register at an authority at a time, until the end of the transaction.
///
/// # Errors
/// When the database does not answer.
pub async fn lock(
    connection: &mut PgConnection,
    directory_url: &str,
    region: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "select pg_advisory_xact_lock(hashtextextended('acme_account ' || $1 || ' ' || $2, 0))
             is null as done",
        directory_url,
        region
    )
    .fetch_one(connection)
    .await?;
    Ok(())
}

/// Stores a new account, with a full budget.
///
/// # Errors
/// When the database does not answer.
pub async fn insert(
    connection: &mut PgConnection,
    account: &AcmeAccount,
    directory_url: &str,
    region: &str,
    allowed: Allowance,
) -> Result<(), sqlx::Error> {
    let full = allowed.at_once;
    sqlx::query!(
        "insert into acme_account (id, directory_url, region, sealed_credentials, budget)
         values ($1, $2, $3, $4, $5)",
        account.id,
        directory_url,
        region,
        account.sealed_credentials,
        full,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Forgets an account that its authority does not know any more.
///
/// # Errors
/// When the database does not answer.
pub async fn delete(pool: &PgPool, id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!("delete from acme_account where id = $1", id).execute(pool).await?;
    Ok(())
}

/// Takes one order from an account's budget; the moment when there is one again, when there is
/// none.
///
/// # Errors
/// When the database does not answer.
pub async fn spend(
    pool: &PgPool,
    id: Uuid,
    allowed: Allowance,
) -> Result<Result<(), OffsetDateTime>, sqlx::Error> {
    let mut tx = pool.begin().await?;
    let row = sqlx::query!(
        r#"select budget, budget_at, now() as "now!" from acme_account where id = $1 for update"#,
        id
    )
    .fetch_one(&mut *tx)
    .await?;
    match (Budget { left: row.budget, at: row.budget_at }).spend(row.now, allowed) {
        Ok(rest) => {
            sqlx::query!(
                "update acme_account set budget = $2, budget_at = $3 where id = $1",
                id,
                rest.left,
                rest.at
            )
            .execute(&mut *tx)
            .await?;
            tx.commit().await?;
            Ok(Ok(()))
        }
        Err(until) => Ok(Err(until)),
    }
}
