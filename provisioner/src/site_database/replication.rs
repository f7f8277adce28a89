//! The stream of a move: everything that is written into a site's database also arrives in another
//! cluster's, by Postgres' logical replication. These verbs set it up and take it away.
//!
//! ```text
//! publisher   publication `move`          every table of `public`, and the marker; by name, so that
//!                                         a table which comes later is missed loudly
//!             slot `m_<subscriber>_<n>`   what the subscriber has not confirmed yet
//!             role `s_…_mover`            logs in for the subscriber: reads, and replicates
//! subscriber  subscription `m_<…>`        with its origin, which knows how far it got
//! ```
//!
//! A slot pins the write-ahead log of its whole cluster: whoever takes a stream away takes away every
//! slot of the database.

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::{SiteDatabaseError, SiteDatabaseName, SiteDatabases, error::sqlstate};
use crate::secrets::{ScramVerifier, SecretError, random_text};

/// The publication in a publisher's database.
const PUBLICATION: &str = "site_move";
/// Which tables are published: those of `pg_class c` in `pg_namespace n` for which this holds.
pub(super) const FOLLOWED: &str = "c.relkind = 'r' and (n.nspname = 'public'
    or (n.nspname, c.relname) = ('platform', 'move_marker'))";
/// Every mover is in this group, by which `pg_hba.conf` lets other clusters' servers in.
const MOVERS: &str = "ta3lem_mover";

/// Where a cluster's server is reached by another one's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicationAddress {
    /// A host name, or the directory of a unix socket.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// Who may read the stream: the words of a connection string. Its password is a secret.
#[derive(Clone)]
pub struct Mover {
    address: ReplicationAddress,
    database: SiteDatabaseName,
    password: String,
}

/// How a subscription begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// With a copy of what is there, at once.
    Copy,
    /// With nothing, and only when [`SiteDatabases::follow_from`] says from where.
    Later,
}

impl SiteDatabaseName {
    /// The role by which another cluster's server reads the stream.
    pub fn mover(&self) -> String {
        format!("{}_mover", self.as_str())
    }

    /// The name of the subscription, and of its slot at the publisher, of this database as the one
    /// that follows. Both servers' limits on names hold.
    pub(super) fn stream(&self) -> String {
        format!("m_{}", &self.as_str()[2..])
    }
}

impl SiteDatabases {
    /// Where other clusters' servers reach this one: as its administrator does, unless it was said.
    pub fn address(&self) -> ReplicationAddress {
        if let Some(address) = &self.0.reached_at {
            return address.clone();
        }
        let options = &self.0.options;
        let host = options.get_socket().map_or_else(
            || options.get_host().to_owned(),
            |socket| socket.to_string_lossy().into_owned(),
        );
        ReplicationAddress { host, port: options.get_port() }
    }

    /// Publishes the database's tables, and lets a role of its own read them: one that exists gets a
    /// new password.
    ///
    /// # Errors
    /// When the cluster is down, full or refuses.
    pub async fn publish(
        &self,
        name: &SiteDatabaseName,
        address: ReplicationAddress,
    ) -> Result<Result<Mover, SecretError>, SiteDatabaseError> {
        let password = match random_text() {
            Ok(password) => password,
            Err(error) => return Ok(Err(error)),
        };
        let verifier = match ScramVerifier::of_password(&password) {
            Ok(verifier) => verifier,
            Err(error) => return Ok(Err(error)),
        };
        let (login, mover, ro) = (name.login(), name.mover(), name.ro());
        let role = format!(
            "do $mover$ begin
                 perform pg_advisory_xact_lock(hashtext('ta3lem roles'), hashtext('{login}'));
                 if not exists (select from pg_roles where rolname = '{MOVERS}') then
                     create role {MOVERS} nologin;
                 end if;
                 if not exists (select from pg_roles where rolname = '{mover}') then
                     create role {mover} login replication in role {MOVERS}, {ro};
                 end if;
                 alter role {mover} login replication connection limit 20 password '{verifier}';
                 grant connect on database {name} to {mover};
             end $mover$",
            verifier = verifier.as_str(),
        );
        self.run("make a role for replication", role).await?;
        self.publish_tables(name, &[]).await?;
        Ok(Ok(Mover { address, database: name.clone(), password }))
    }

    /// Publishes every table that shall follow, without some (with their schemas, quoted).
    pub(super) async fn publish_tables(
        &self,
        name: &SiteDatabaseName,
        without: &[String],
    ) -> Result<(), SiteDatabaseError> {
        let without: Vec<_> =
            without.iter().map(|table| format!("'{}'", table.replace('\'', "''"))).collect();
        let without = without.join(", ");
        let publication = format!(
            "do $publish$
             declare wanted text := (
                 select string_agg(c.oid::regclass::text, ', ' order by c.oid::regclass::text)
                 from pg_class c join pg_namespace n on n.oid = c.relnamespace
                 where {FOLLOWED}
                     and format('%I.%I', n.nspname, c.relname) <> all (array[{without}]::text[]));
             begin
                 if exists (select from pg_publication where pubname = '{PUBLICATION}') then
                     execute 'alter publication {PUBLICATION} set table ' || wanted;
                 else
                     execute 'create publication {PUBLICATION} for table ' || wanted;
                 end if;
             end $publish$"
        );
        let mut connection = self.connect(Some(name)).await?;
        let outcome = sqlx::raw_sql(AssertSqlSafe(publication)).execute(&mut connection).await;
        let _ = connection.close().await;
        outcome.map(|_| ()).map_err(|error| self.sort("publish the site's tables", error))
    }

    /// Makes the slot for the database that follows. It waits until every transaction of the
    /// cluster that writes now has ended, those of other sites too.
    ///
    /// # Errors
    /// When the cluster is down, has no slot left, or one of those transactions does not end.
    pub async fn ensure_slot(
        &self,
        name: &SiteDatabaseName,
        follower: &SiteDatabaseName,
    ) -> Result<(), SiteDatabaseError> {
        let mut connection = self.connect(Some(name)).await?;
        let outcome = sqlx::query(
            "select pg_create_logical_replication_slot($1, 'pgoutput')
             where not exists (select from pg_replication_slots where slot_name = $1)",
        )
        .persistent(false)
        .bind(follower.stream())
        .execute(&mut connection)
        .await;
        let _ = connection.close().await;
        match outcome {
            Ok(_) => Ok(()),
            // Another run of the same step was faster.
            Err(error) if sqlstate(&error).as_deref() == Some("42710") => Ok(()),
            Err(error) => Err(self.sort("make a replication slot", error)),
        }
    }

    /// Lets the database follow a publisher whose slot is there. A subscription that exists gets the
    /// new way to it and goes on where it was.
    ///
    /// # Errors
    /// When the cluster is down or refuses, or its server cannot reach the publisher's.
    pub async fn subscribe(
        &self,
        name: &SiteDatabaseName,
        mover: &Mover,
        beginning: Beginning,
    ) -> Result<(), SiteDatabaseError> {
        let stream = name.stream();
        let conninfo = mover.conninfo(&stream).replace('\'', "''");
        let begins = beginning == Beginning::Copy;
        let mut connection = self.connect(Some(name)).await?;
        let outcome = async {
            keep_out_of_the_log(&mut connection).await?;
            let exists: bool = sqlx::query_scalar(
                "select exists (select from pg_subscription where subname = $1
                     and subdbid = (select oid from pg_database where datname = current_database()))",
            )
            .persistent(false)
            .bind(&stream)
            .fetch_one(&mut connection)
            .await?;
            let sql = if exists {
                format!("alter subscription {stream} connection '{conninfo}'")
            } else {
                format!(
                    "create subscription {stream} connection '{conninfo}'
                     publication {PUBLICATION}
                     with (create_slot = false, slot_name = '{stream}', streaming = on,
                           copy_data = {begins}, enabled = {begins})"
                )
            };
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await
        }
        .await;
        let _ = connection.close().await;
        outcome.map(|_| ()).map_err(|error| self.sort("follow another cluster's database", error))
    }

    /// Lets a subscription that was made for later follow what its publisher wrote after `from`, a
    /// place in the publisher's log. One that follows already goes on.
    ///
    /// # Errors
    /// When the cluster is down or refuses.
    pub async fn follow_from(
        &self,
        name: &SiteDatabaseName,
        from: &str,
    ) -> Result<(), SiteDatabaseError> {
        let stream = name.stream();
        let mut connection = self.connect(Some(name)).await?;
        let outcome = async {
            // Only forward, and only while nobody moves it.
            sqlx::query(
                "select pg_replication_origin_advance('pg_' || oid, $2::pg_lsn)
                 from pg_subscription
                 where subname = $1 and not subenabled
                     and coalesce(pg_replication_origin_progress('pg_' || oid, true), '0/0')
                         < $2::pg_lsn",
            )
            .persistent(false)
            .bind(&stream)
            .bind(from)
            .execute(&mut connection)
            .await?;
            let enable = format!("alter subscription {stream} enable");
            sqlx::raw_sql(AssertSqlSafe(enable)).execute(&mut connection).await
        }
        .await;
        let _ = connection.close().await;
        outcome.map(|_| ()).map_err(|error| self.sort("follow from a place in the log", error))
    }

    /// Takes away the subscription of a database that follows, and waits until its worker is gone.
    /// The publisher is not asked: see [`SiteDatabases::unpublish`].
    ///
    /// # Errors
    /// When the cluster is down or refuses.
    pub async fn unsubscribe(&self, name: &SiteDatabaseName) -> Result<(), SiteDatabaseError> {
        const ACTION: &str = "stop following another cluster's database";
        if !self.exists(name).await? {
            return Ok(());
        }
        let stream = name.stream();
        let mut connection = self.connect(Some(name)).await?;
        let outcome = async {
            let exists: bool = sqlx::query_scalar(
                "select exists (select from pg_subscription where subname = $1
                     and subdbid = (select oid from pg_database where datname = current_database()))",
            )
            .persistent(false)
            .bind(&stream)
            .fetch_one(&mut connection)
            .await?;
            if exists {
                // Without a slot's name nothing is asked of the publisher, who may be gone.
                let sql = format!(
                    "alter subscription {stream} disable;
                     alter subscription {stream} set (slot_name = none);
                     drop subscription {stream}"
                );
                for statement in sql.split(';') {
                    sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
                        .execute(&mut connection)
                        .await?;
                }
            }
            Ok(())
        }
        .await;
        let _ = connection.close().await;
        outcome.map_err(|error| self.sort(ACTION, error))
    }

    /// Takes away all that a publisher has for whoever follows: slots, publication, the role. A
    /// database that is not there has none of it but perhaps the role.
    ///
    /// # Errors
    /// When the cluster is down or refuses.
    pub async fn unpublish(&self, name: &SiteDatabaseName) -> Result<(), SiteDatabaseError> {
        const ACTION: &str = "stop publishing the site's tables";
        if self.exists(name).await? {
            let mut connection = self.connect(Some(name)).await?;
            let outcome = async {
                drop_slots(&mut connection).await?;
                let sql = format!("drop publication if exists {PUBLICATION}");
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await
            }
            .await;
            let _ = connection.close().await;
            outcome.map_err(|error| self.sort(ACTION, error))?;
        }
        let (login, mover) = (name.login(), name.mover());
        let sql = format!(
            "do $mover$ begin
                 perform pg_advisory_xact_lock(hashtext('ta3lem roles'), hashtext('{login}'));
                 if exists (select from pg_roles where rolname = '{mover}') then
                     if exists (select from pg_database where datname = '{name}') then
                         revoke all on database {name} from {mover};
                     end if;
                     perform pg_terminate_backend(pid) from pg_stat_activity
                         where usename = '{mover}';
                     drop role {mover};
                 end if;
             end $mover$"
        );
        self.run(ACTION, sql).await
    }

    /// The names of the database's slots.
    ///
    /// # Errors
    /// When the cluster is down or refuses.
    pub async fn slots(&self, name: &SiteDatabaseName) -> Result<Vec<String>, SiteDatabaseError> {
        let slots = sqlx::query_scalar(
            "select slot_name::text from pg_replication_slots where database = $1 order by 1",
        )
        .bind(name.as_str())
        .fetch_all(&self.0.pool)
        .await;
        match slots {
            Ok(slots) => Ok(slots),
            Err(error) => Err(self.explain("list replication slots", error).await),
        }
    }
}

/// For what has a password in it.
async fn keep_out_of_the_log(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(
        "select set_config('log_statement', 'none', false),
                set_config('log_min_duration_statement', '-1', false),
                set_config('log_min_error_statement', 'panic', false),
                set_config('log_error_verbosity', 'terse', false)
         from pg_roles where rolname = current_user and rolsuper",
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A slot that somebody reads cannot be dropped: who reads it is ended first. Ended walsenders come
/// back as long as their subscriber lives, so this is tried some times.
async fn drop_slots(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(
        "do $slots$
         declare
             this record;
         begin
             for attempt in 1..50 loop
                 for this in select slot_name, active_pid from pg_replication_slots
                             where database = current_database()
                 loop
                     begin
                         if this.active_pid is not null then
                             perform pg_terminate_backend(this.active_pid, 1000);
                         end if;
                         perform pg_drop_replication_slot(this.slot_name);
                     exception when object_in_use or undefined_object then
                         perform pg_sleep(0.05);
                     end;
                 end loop;
                 exit when not exists (select from pg_replication_slots
                                       where database = current_database());
             end loop;
             if exists (select from pg_replication_slots where database = current_database()) then
                 raise 'a replication slot of the database is read again and again'
                     using errcode = 'object_in_use';
             end if;
         end $slots$",
    )
    .execute(connection)
    .await?;
    Ok(())
}

impl Mover {
    fn conninfo(&self, application: &str) -> String {
        let quoted = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
        format!(
            "host={} port={} dbname={} user={} password={} application_name={application} \
             connect_timeout=10 keepalives_idle=10 keepalives_interval=5 keepalives_count=3",
            quoted(&self.address.host),
            self.address.port,
            self.database,
            self.database.mover(),
            quoted(&self.password),
        )
    }
}

impl std::fmt::Debug for Mover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mover({} at {}:{})", self.database, self.address.host, self.address.port)
    }
}
