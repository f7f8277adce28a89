//! The Rust enums and the Postgres enums are the same.

use anyhow::{Result, ensure};
use control_types::state;
use sqlx::PgPool;
use tests::Stack;

pub async fn sql_and_rust_agree(stack: &Stack) -> Result<()> {
    let pool = PgPool::connect(&stack.control_database_url()?).await?;
    macro_rules! agree {
        ($($name:ident),*) => {$(
            let rust: Vec<&str> = state::$name::ALL.iter().map(|value| value.as_str()).collect();
            let sql: Vec<String> = sqlx::query_scalar(
                "select enumlabel::text from pg_enum join pg_type on pg_type.oid = enumtypid
                 where typname = $1 order by enumsortorder",
            )
            .bind(state::$name::SQL_TYPE)
            .fetch_all(&pool)
            .await?;
            ensure!(sql == rust, "{}: {sql:?} in SQL, {rust:?} in Rust", state::$name::SQL_TYPE);
        )*};
    }
    agree!(
        SiteState,
        DomainKind,
        DomainState,
        DomainProof,
        PlacementState,
        InstanceDesired,
        InstanceObserved,
        AcmeChallengeKind,
        CertificateSource,
        CertificateOrderState,
        CertificateFault,
        OperationKind,
        OperationState,
        StepEvent,
        RecordKind
    );
    // Nor is there an enum in SQL that Rust does not know.
    let n_enums: i64 = sqlx::query_scalar(
        "select count(*) from pg_type where typtype = 'e' and typnamespace = 'public'::regnamespace",
    )
    .fetch_one(&pool)
    .await?;
    ensure!(n_enums == 15, "{n_enums} enums in SQL");
    Ok(())
}
