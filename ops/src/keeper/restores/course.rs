//! The course of one order: its parts, and how long each takes.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use provisioner_api::restores::{RestoreOrder, RestoreProgress};
use sqlx::{Connection as _, PgConnection};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{carry, log, place::Place, scratch::Scratch};
use crate::keeper::{
    config::KeeperConfig,
    pgbackrest::{NoBackup, Pgbackrest, Wanted},
    server::{self, Model},
};

/// How often the files are tried to be had: the object store may be away for a moment.
const TRIES: u32 = 3;
/// The pause before the next try.
const PAUSE: Duration = Duration::from_secs(2);
/// What a restore takes besides the database itself, in bytes: the log that is replayed at a time, and
/// what every cluster has.
const ROOM: u64 = 2 << 30;

/// A part of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The log reaches beyond the moment, in the object store.
    Log,
    /// The files of a backup.
    Files,
    /// From the backup to the moment.
    Replay,
    /// Into the new database.
    Carry,
    /// Nothing is left but that.
    Tidy,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Log => "wait for the log",
            Self::Files => "restore the files",
            Self::Replay => "replay the log",
            Self::Carry => "carry it over",
            Self::Tidy => "tidy",
        }
    }

    fn doing(self) -> &'static str {
        match self {
            Self::Log => "waits for the log",
            Self::Files => "restores the files",
            Self::Replay => "replays the log",
            Self::Carry => "carries it over",
            Self::Tidy => "tidies",
        }
    }
}

/// The part that an order is at, and since when.
#[derive(Clone, Copy, Debug)]
pub struct Far(Option<(Part, Instant)>);

impl Far {
    /// It has not begun.
    pub fn new() -> Self {
        Self(None)
    }

    /// In words.
    pub fn in_words(self) -> String {
        let Self(Some((part, since))) = self else { return "begins".to_owned() };
        match since.elapsed().as_secs() {
            0 => part.doing().to_owned(),
            secs => format!("{} ({secs} s)", part.doing()),
        }
    }
}

/// Goes through an order.
pub struct Course<'a> {
    config: &'a KeeperConfig,
    pgbackrest: &'a Pgbackrest,
    order: &'a RestoreOrder,
    far: watch::Sender<Far>,
    took: Vec<(String, u64)>,
}

impl<'a> Course<'a> {
    /// Of an order. It says how far it is by `far`.
    pub fn new(
        config: &'a KeeperConfig,
        pgbackrest: &'a Pgbackrest,
        order: &'a RestoreOrder,
        far: watch::Sender<Far>,
    ) -> Self {
        Self { config, pgbackrest, order, far, took: Vec::new() }
    }

    /// Goes through all of it, unless that has been done before.
    ///
    /// # Errors
    /// When it cannot be done. Files and programs may be left then: see [`Place::clear`].
    pub async fn run(mut self) -> anyhow::Result<RestoreProgress> {
        let (config, order) = (self.config, self.order);
        check_names(order)?;
        let place = Place::of(config, order.id);
        place.make().await?;
        carry::end_sessions(config, &order.into).await?;
        if carry::is_done(config, &order.into).await.context("the new database")? {
            carry::settle(config, &order.into).await?;
            place.clear().await?;
            return Ok(RestoreProgress::Done { last_commit_at: None, parts: Vec::new() });
        }
        let mut live = server::connect(config, "postgres").await?;
        let model = Model::of(config, &mut live).await?;
        let log = log::reach_beyond(config, &mut live, order.moment);
        self.part(Part::Log, log).await?;
        check_room(&mut live, &place, &order.database).await?;
        live.close().await?;
        let pgbackrest = self.pgbackrest;
        self.part(Part::Files, bring_files(pgbackrest, &place, order)).await?;
        let replay = async {
            let fetch = pgbackrest.fetch_command(&place.data(), &place.locks(), &place.ahead());
            let mut scratch = Scratch::start(&place, &model, fetch).await?;
            let last = scratch.reach_moment(&order.database).await?;
            anyhow::Ok((scratch, last))
        };
        let (scratch, last_commit_at) = self.part(Part::Replay, replay).await?;
        let carried = carry::over(config, &model.programs, &place, &scratch, order);
        self.part(Part::Carry, carried).await?;
        self.part(Part::Tidy, place.clear()).await?;
        Ok(RestoreProgress::Done { last_commit_at, parts: self.took })
    }

    async fn part<T>(
        &mut self,
        part: Part,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let began = Instant::now();
        self.far.send_replace(Far(Some((part, began))));
        let done = work.await?;
        let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.took.push((part.name().to_owned(), millis));
        Ok(done)
    }
}

async fn bring_files(
    pgbackrest: &Pgbackrest,
    place: &Place,
    order: &RestoreOrder,
) -> anyhow::Result<()> {
    let (data, locks, tablespaces) = (place.data(), place.locks(), place.tablespaces());
    let wanted = Wanted {
        database: &order.database,
        moment: order.moment,
        data: &data,
        locks: &locks,
        tablespaces: &tablespaces,
    };
    let mut tries = 1..TRIES;
    loop {
        let Err(error) = pgbackrest.restore(&wanted).await else { return Ok(()) };
        if error.is::<NoBackup>() || tries.next().is_none() {
            return Err(error);
        }
        tracing::warn!("order {}: {error:#}; tries again", order.id);
        sleep(PAUSE).await;
        // Half of the files may be there.
        place.make().await?;
    }
}

/// The live server must never run out of room by this.
async fn check_room(live: &mut PgConnection, place: &Place, database: &str) -> anyhow::Result<()> {
    const MB: u64 = 1 << 20;
    // Only system catalogs are read here, so there is no schema to check a query against. The database
    // may be gone by now, which is why it is to come back.
    let bytes: Option<i64> =
        sqlx::query_scalar("select pg_database_size(oid) from pg_database where datname = $1")
            .bind(database)
            .fetch_optional(live)
            .await?;
    let bytes = bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or_default();
    // Once as files of the backup, once as the new database.
    let (needed, free) = (bytes.saturating_mul(2).saturating_add(ROOM), place.free_bytes()?);
    ensure!(
        free >= needed,
        "the cluster's machine has {} MB of room, and this may take {} MB",
        free / MB,
        needed / MB
    );
    Ok(())
}

/// An order names databases and a role, which are arguments of programs here.
fn check_names(order: &RestoreOrder) -> anyhow::Result<()> {
    let RestoreOrder { database, into, owner, .. } = order;
    for name in [database, into] {
        let digits = name.strip_prefix("s_").unwrap_or_default();
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        ensure!(
            digits.len() == 32 && digits.bytes().all(is_digit),
            "{name:?} is not the name of a site's database"
        );
    }
    ensure!(database != into, "a database cannot come back into itself");
    ensure!(*owner == format!("{into}_owner"), "{owner:?} is not the owner of {into}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn only_a_sites_databases_and_the_new_ones_owner_are_named() {
        let name = |digit: &str| format!("s_{}", digit.repeat(32));
        let order = RestoreOrder {
            id: Uuid::nil(),
            database: name("a"),
            moment: OffsetDateTime::UNIX_EPOCH,
            into: name("b"),
            owner: format!("{}_owner", name("b")),
        };
        assert!(check_names(&order).is_ok());
        let wrong = [
            RestoreOrder { database: "postgres".to_owned(), ..order.clone() },
            RestoreOrder { database: name("A"), ..order.clone() },
            RestoreOrder { database: format!("{} dbname=x", name("a")), ..order.clone() },
            RestoreOrder { into: format!("--{}", name("b")), ..order.clone() },
            RestoreOrder { into: name("c"), ..order.clone() },
            RestoreOrder { database: name("b"), ..order.clone() },
            RestoreOrder { owner: "postgres".to_owned(), ..order.clone() },
        ];
        for order in wrong {
            assert!(check_names(&order).is_err(), "{order:?}");
        }
    }

    #[test]
    fn how_far_it_is_is_told_in_words() {
        assert_eq!(Far::new().in_words(), "begins");
        let ago = |millis| Instant::now().checked_sub(Duration::from_millis(millis));
        let far = |millis| Far(ago(millis).map(|since| (Part::Files, since))).in_words();
        assert_eq!(far(0), "restores the files");
        assert_eq!(far(12_500), "restores the files (12 s)");
    }
}
