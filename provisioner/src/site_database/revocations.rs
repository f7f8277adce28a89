//! What must not come back with a site as it was: access that was taken away since. Sessions and links
//! that are not good any more stay so, roles stay as low and accounts as closed as they are, and a
//! password that was changed is the changed one. Whoever is signed in stays so, if there was such an
//! account then.

use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use super::{Attempt, SiteDatabaseError, Switch};

const ACTION: &str = "carry over whose access was taken away";

/// As the source tells it, in JSON.
pub struct Revocations(String);

const READ: &str = "select jsonb_build_object(
        'accounts', (select coalesce(jsonb_agg(jsonb_build_object('id', id, 'role', role,
                                'state', state, 'password_hash', password_hash)), '[]')
                     from public.account),
        'sessions', (select coalesce(jsonb_agg(session), '[]')
                     from public.session where expires_at > now()),
        'tokens', (select coalesce(jsonb_agg(one_time_token), '[]')
                   from public.one_time_token where expires_at > now() and used_at is null)
    )::text as revocations";

/// Each with all of it as its parameter.
const APPLY: &[&str] = &[
    "update public.account set
         role = least(account.role, now.role::public.account_role),
         state = case when account.state = 'disabled' then account.state
                      else now.state::public.account_state end,
         password_hash = now.password_hash
     from jsonb_to_recordset($1::text::jsonb -> 'accounts')
         as now (id uuid, role text, state text, password_hash text)
     where now.id = account.id
         and (account.role > now.role::public.account_role
              or account.state <> now.state::public.account_state
              or account.password_hash is distinct from now.password_hash)",
    "delete from public.session where $1::text is not null",
    "insert into public.session
     select session.* from jsonb_populate_recordset(
         null::public.session, $1::text::jsonb -> 'sessions') session
     join public.account on account.id = session.account_id and account.state = 'active'",
    "delete from public.one_time_token where $1::text is not null",
    "insert into public.one_time_token
     select token.* from jsonb_populate_recordset(
         null::public.one_time_token, $1::text::jsonb -> 'tokens') token
     join public.account on account.id = token.account_id",
];

impl Switch {
    /// Of a source that is fenced.
    ///
    /// # Errors
    /// When the cluster is down or refuses.
    pub async fn revocations(&mut self) -> Result<Revocations, SiteDatabaseError> {
        let rows = self.ask(READ.to_owned(), super::switch::LOOK).await;
        let rows = rows.map_err(|error| self.databases().sort(ACTION, error))?;
        let text = rows.iter().rfind(|row| !row.is_empty()).map(|row| row.get("revocations"));
        Ok(Revocations(text.unwrap_or_default()))
    }

    /// Brings to a target that follows nobody what a stream would have brought last: the marker of the
    /// attempt; and before it what must not come back. One transaction, in a target that stands by for
    /// the attempt; in no other one.
    ///
    /// # Errors
    /// When the cluster is down or refuses.
    pub async fn bring(
        &mut self,
        attempt: &Attempt,
        fence_lsn: &str,
        revocations: &Revocations,
    ) -> Result<(), SiteDatabaseError> {
        let databases = self.databases().clone();
        let token = attempt.armed();
        let brought = async {
            let connection = self.session()?;
            let mut transaction = connection.begin().await?;
            // Values of people stay out of the server's log.
            sqlx::raw_sql(
                "select set_config('log_parameter_max_length', '0', true),
                        set_config('log_parameter_max_length_on_error', '0', true)
                 from pg_roles where rolname = current_user and rolsuper",
            )
            .execute(&mut *transaction)
            .await?;
            let locked = format!(
                "select from platform.site_authority
                 where state = 'standby' and moving_to = '{token}' for update"
            );
            let stands_by = sqlx::query(AssertSqlSafe(locked))
                .persistent(false)
                .fetch_optional(&mut *transaction)
                .await?;
            // Somebody gave the attempt up, or came before: the opening says so.
            if stands_by.is_none() {
                return Ok(());
            }
            for statement in APPLY {
                sqlx::query(*statement)
                    .persistent(false)
                    .bind(&revocations.0)
                    .execute(&mut *transaction)
                    .await?;
            }
            sqlx::query(
                "insert into platform.move_marker (generation, fence_lsn)
                 values ($1, $2::text::pg_lsn) on conflict (generation) do nothing",
            )
            .persistent(false)
            .bind(attempt.number)
            .bind(fence_lsn)
            .execute(&mut *transaction)
            .await?;
            transaction.commit().await
        };
        let brought = tokio::time::timeout(super::switch::ANSWER, brought).await;
        let lost = |_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()));
        brought.unwrap_or_else(lost).map_err(|error| databases.sort(ACTION, error))
    }
}
