//! The control database and its roles: the provisioner owns it, routers may read what the
//! provisioner grants to `ta3lem_router`. Every start sets the passwords that are in the data
//! directory. The tables are the provisioner's affair.

use anyhow::Context as _;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};

use super::postgres::Cluster;
use crate::data_dir::{DataDir, secret_in};

/// The provisioner's database.
pub const DATABASE: &str = "control";
/// The provisioner's role.
const PROVISIONER: &str = "ta3lem_provisioner";
/// What routers may do is granted to this role.
const ROUTERS: &str = "ta3lem_router";

/// How the provisioner and the routers reach the control database.
pub struct ControlDatabase {
    /// The provisioner's URL.
    pub provisioner_url: String,
    /// Each region's router's URL, in the order asked for.
    pub router_urls: Vec<String>,
}

/// Makes the database and the roles, unless they are there.
///
/// # Errors
/// When the server refuses.
pub async fn ensure(
    cluster: &Cluster,
    data: &DataDir,
    regions: &[&str],
) -> anyhow::Result<ControlDatabase> {
    let mut server = cluster.connect().await?;
    let password = secret_in(&data.secrets().join("control-provisioner"))?;
    ensure_role(&mut server, PROVISIONER, Some(&password)).await?;
    ensure_role(&mut server, ROUTERS, None).await?;
    let provisioner_url = cluster.url(PROVISIONER, &password, DATABASE);
    let mut router_urls = Vec::new();
    for region in regions {
        // The file of region `id-jakarta` is `control-router-id-jakarta`, its role
        // `router_id_jakarta`.
        let role = format!("router_{}", region.replace('-', "_"));
        let password = secret_in(&data.secrets().join(format!("control-router-{region}")))?;
        ensure_role(&mut server, &role, Some(&password)).await?;
        server
            .execute(AssertSqlSafe(format!(
                "grant {ROUTERS} to {role};
                 alter role {role} connection limit 20;
                 alter role {role} set default_transaction_read_only = on;"
            )))
            .await?;
        router_urls.push(cluster.url(&role, &password, DATABASE));
    }
    // Only system catalogs are read here, so there is no schema to check a query against.
    let exists: bool =
        sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
            .bind(DATABASE)
            .fetch_one(&mut server)
            .await
            .context("cannot list the databases")?;
    if !exists {
        let create = format!("create database {DATABASE} owner {PROVISIONER} template template0");
        server.execute(AssertSqlSafe(create)).await?;
    }
    server
        .execute(AssertSqlSafe(format!(
            "revoke all on database {DATABASE}, postgres, template1 from public;
             grant connect on database {DATABASE} to {ROUTERS};"
        )))
        .await?;
    Ok(ControlDatabase { provisioner_url, router_urls })
}

/// Names are our own and passwords hexadecimal digits, so neither needs escaping.
async fn ensure_role(
    server: &mut PgConnection,
    role: &str,
    password: Option<&str>,
) -> anyhow::Result<()> {
    let exists: bool =
        sqlx::query_scalar("select exists (select from pg_roles where rolname = $1)")
            .bind(role)
            .fetch_one(&mut *server)
            .await?;
    if !exists {
        server.execute(AssertSqlSafe(format!("create role {role}"))).await?;
    }
    if let Some(password) = password {
        server
            .execute(AssertSqlSafe(format!("alter role {role} login password '{password}'")))
            .await
            .with_context(|| format!("cannot set the password of role {role}"))?;
    }
    Ok(())
}
