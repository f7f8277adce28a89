//! What a new site's database is filled with, and its limits later. These statements are about a
//! site's database, so they cannot be checked against the control database when this is compiled;
//! the tests run all of them.

use control_types::{Generation, SiteId};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::{SiteDatabaseError, SiteDatabaseName, SiteDatabases};

/// Whose database it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// The site.
    pub site_id: SiteId,
    /// The generation of its placement.
    pub generation: Generation,
    /// The name of the cluster.
    pub cluster: String,
}

impl std::fmt::Display for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "site {} of generation {}", self.site_id, self.generation)
    }
}

/// The limits of a site's plan. None means unlimited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The plan's name.
    pub plan: String,
    /// Students with an account.
    pub max_students: Option<i32>,
    /// Instructors with an account.
    pub max_instructors: Option<i32>,
    /// Courses that are not archived.
    pub max_courses: Option<i32>,
    /// Bytes of files.
    pub storage_bytes: Option<i64>,
    /// Bytes of one file.
    pub max_upload_bytes: i64,
}

impl SiteDatabases {
    /// Makes the database the primary one of its site and fills it (`platform.seed_site`), in one
    /// transaction. Run again it changes nothing but the limits.
    ///
    /// # Errors
    /// When the cluster is down, full or refuses; when the database belongs to another site or
    /// generation.
    pub async fn seed(
        &self,
        name: &SiteDatabaseName,
        authority: &Authority,
        limits: &Limits,
        seed: &Value,
    ) -> Result<(), SiteDatabaseError> {
        let mut connection = self.connect(Some(name)).await?;
        let outcome = async {
            let mut transaction = connection.begin().await?;
            become_owner(&mut transaction, name).await?;
            if let Err(found) = claim(&mut transaction, authority, &["primary"]).await? {
                return Ok(Err(found));
            }
            write_limits(&mut transaction, limits).await?;
            sqlx::query("select platform.seed_site($1)")
                .persistent(false)
                .bind(seed)
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await?;
            Ok(Ok(()))
        }
        .await;
        let _ = connection.close().await;
        self.claimed(name, authority, outcome, "fill the site's database")
    }

    fn claimed(
        &self,
        name: &SiteDatabaseName,
        authority: &Authority,
        outcome: Result<Result<(), String>, sqlx::Error>,
        action: &'static str,
    ) -> Result<(), SiteDatabaseError> {
        match outcome {
            Ok(Ok(())) => Ok(()),
            Ok(Err(found)) => Err(SiteDatabaseError::OtherAuthority {
                cluster: self.cluster().to_owned(),
                database: name.clone(),
                found,
                expected: authority.to_string(),
            }),
            Err(error) => Err(self.sort(action, error)),
        }
    }

    /// Makes the database, whose site is elsewhere still, the one that may become it: `standby`, with
    /// the limits of the plan and nothing else. Run again it changes nothing but the limits.
    ///
    /// # Errors
    /// When the cluster is down, full or refuses; when the database belongs to another site or
    /// generation.
    pub async fn prepare_standby(
        &self,
        name: &SiteDatabaseName,
        authority: &Authority,
        limits: &Limits,
    ) -> Result<(), SiteDatabaseError> {
        let mut connection = self.connect(Some(name)).await?;
        let outcome = async {
            let mut transaction = connection.begin().await?;
            become_owner(&mut transaction, name).await?;
            let claimed = claim(&mut transaction, authority, &["standby", "aborted"]).await?;
            if claimed.is_ok() {
                write_limits(&mut transaction, limits).await?;
                transaction.commit().await?;
            }
            Ok(claimed)
        }
        .await;
        let _ = connection.close().await;
        self.claimed(name, authority, outcome, "prepare the site's new database")
    }

    /// Gives the site other limits.
    ///
    /// # Errors
    /// When the cluster is down or refuses.
    pub async fn set_limits(
        &self,
        name: &SiteDatabaseName,
        limits: &Limits,
    ) -> Result<(), SiteDatabaseError> {
        let mut connection = self.connect(Some(name)).await?;
        let outcome = write_limits(&mut connection, limits).await;
        let _ = connection.close().await;
        outcome.map_err(|error| self.sort("set the site's limits", error))
    }
}

/// For this transaction: no value in the server's log (they are people's names, addresses and hashes
/// of their passwords), and no more rights than the database's owner has.
async fn become_owner(
    connection: &mut PgConnection,
    name: &SiteDatabaseName,
) -> Result<(), sqlx::Error> {
    let sql = format!(
        "select set_config('log_parameter_max_length', '0', true),
                set_config('log_parameter_max_length_on_error', '0', true),
                set_config('log_error_verbosity', 'terse', true)
         from pg_roles where rolname = current_user and rolsuper;
         set local role {}",
        name.owner()
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await?;
    Ok(())
}

/// Writes whose database it is and the first of `states`, unless it is somebody's already: then it
/// must be the same, in one of `states`.
async fn claim(
    connection: &mut PgConnection,
    authority: &Authority,
    states: &[&str],
) -> Result<Result<(), String>, sqlx::Error> {
    sqlx::query(
        "insert into platform.site_authority (site_id, generation, state, cluster)
         values ($1, $2, $4::text::platform.authority_state, $3) on conflict (only_row) do nothing",
    )
    .persistent(false)
    .bind(authority.site_id)
    .bind(authority.generation)
    .bind(&authority.cluster)
    .bind(states.first().copied().unwrap_or_default())
    .execute(&mut *connection)
    .await?;
    let (site_id, generation, state): (SiteId, Generation, String) =
        sqlx::query_as("select site_id, generation, state::text from platform.site_authority")
            .persistent(false)
            .fetch_one(connection)
            .await?;
    let is_ours = site_id == authority.site_id
        && generation == authority.generation
        && states.contains(&state.as_str());
    Ok(if is_ours {
        Ok(())
    } else {
        Err(format!("site {site_id} of generation {generation} ({state})"))
    })
}

async fn write_limits(connection: &mut PgConnection, limits: &Limits) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into platform.site_limit (plan, max_students, max_instructors, max_courses,
                                          storage_bytes, max_upload_bytes)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (only_row) do update set
             plan = excluded.plan, max_students = excluded.max_students,
             max_instructors = excluded.max_instructors, max_courses = excluded.max_courses,
             storage_bytes = excluded.storage_bytes, max_upload_bytes = excluded.max_upload_bytes",
    )
    .persistent(false)
    .bind(&limits.plan)
    .bind(limits.max_students)
    .bind(limits.max_instructors)
    .bind(limits.max_courses)
    .bind(limits.storage_bytes)
    .bind(limits.max_upload_bytes)
    .execute(connection)
    .await?;
    Ok(())
}
