//! What differs between a site as it was and as it is, in the words of its people. Both databases are read
//! in the order of their keys at the same time, so that neither is held in memory.

use futures_util::{Stream, TryStreamExt as _};
use provisioner_api::{
    backups::BACKGROUND,
    previews::{Change, ComparedItem, NounComparison},
};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _, postgres::PgRow};

use super::{SiteDatabaseError, SiteDatabaseName, SiteDatabases};

const ACTION: &str = "compare a site with how it was";

/// A kind of things that people know, and how they are read: key, name, and a digest of all that makes
/// them what they are, in the order of the keys. What changes by itself (who was seen when) is left out.
struct Noun {
    name: &'static str,
    sql: &'static str,
}

const NOUNS: &[Noun] = &[
    Noun {
        name: "courses",
        sql: "select course.id::text as id, course.title as name,
                  md5((to_jsonb(course) - '{updated_at,search}'::text[])::text || coalesce((
                      select string_agg(part, ',' order by part) from (
                          select md5(to_jsonb(module)::text) as part
                          from module where module.course_id = course.id
                          union all
                          select md5((to_jsonb(content) - 'updated_at')::text)
                          from content join module on module.id = content.module_id
                          where module.course_id = course.id
                          union all
                          select md5((to_jsonb(content_item) - 'updated_at')::text)
                          from content_item
                          join content on content.id = content_item.content_id
                          join module on module.id = content.module_id
                          where module.course_id = course.id
                      ) parts), '')) as digest
              from course order by course.id",
    },
    Noun {
        name: "accounts",
        sql: "select id::text as id, name || ' <' || email || '>' as name,
                  md5((to_jsonb(account) - '{last_sign_in_at,updated_at}'::text[])::text) as digest
              from account order by account.id",
    },
    Noun {
        name: "enrolments",
        sql: "select enrolment.id::text as id, account.name || ' in ' || course.title as name,
                  md5((to_jsonb(enrolment)
                       - '{last_content_id,last_activity_at}'::text[])::text) as digest
              from enrolment
              join account on account.id = enrolment.account_id
              join course on course.id = enrolment.course_id
              order by enrolment.id",
    },
    Noun {
        name: "progress",
        sql: "select enrolment.id::text as id, account.name || ' in ' || course.title as name,
                  md5(string_agg(progress.content_id || ' ' || progress.completed_at, ','
                                 order by progress.content_id)) as digest
              from content_progress progress
              join enrolment on enrolment.id = progress.enrolment_id
              join account on account.id = enrolment.account_id
              join course on course.id = enrolment.course_id
              where progress.completed_at is not null
              group by enrolment.id, account.name, course.title
              order by enrolment.id",
    },
    Noun {
        name: "files",
        sql: "select id::text as id, name, md5(to_jsonb(file)::text) as digest
              from file order by file.id",
    },
    Noun {
        name: "settings",
        sql: "select 'settings' as id, name,
                  md5((to_jsonb(site_settings) - '{updated_at,updated_by}'::text[])::text) as digest
              from site_settings",
    },
];

/// One thing.
struct Thing {
    id: String,
    name: String,
    digest: String,
}

impl SiteDatabases {
    /// Compares a site's database with `then`, which is on `cluster_then`; names the first `list` things
    /// of each kind that differ.
    ///
    /// # Errors
    /// When one of the clusters is down or refuses.
    pub async fn then_and_now(
        &self,
        now: &SiteDatabaseName,
        cluster_then: &Self,
        then: &SiteDatabaseName,
        list: usize,
    ) -> Result<Vec<NounComparison>, SiteDatabaseError> {
        let mut here = self.connect(Some(now)).await?;
        let mut there = cluster_then.connect(Some(then)).await?;
        let compared = async {
            for connection in [&mut here, &mut there] {
                begin(connection).await.map_err(|error| self.sort(ACTION, error))?;
            }
            let mut nouns = Vec::new();
            for noun in NOUNS {
                let compared =
                    compare(noun, things(&mut there, noun), things(&mut here, noun), list);
                nouns.push(compared.await.map_err(|error| self.sort(ACTION, error))?);
            }
            Ok(nouns)
        }
        .await;
        for connection in [here, there] {
            let _ = connection.close().await;
        }
        compared
    }
}

/// One state of the database, and values that become the same text on both sides.
async fn begin(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let sql = format!(
        "set application_name = '{BACKGROUND}'; set timezone = 'UTC'; set datestyle = 'ISO, YMD';
         begin isolation level repeatable read read only"
    );
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop)
}

fn things<'a>(
    connection: &'a mut PgConnection,
    noun: &Noun,
) -> impl Stream<Item = Result<Thing, sqlx::Error>> + Unpin + 'a {
    let thing = |row: PgRow| async move {
        Ok(Thing {
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            digest: row.try_get("digest")?,
        })
    };
    Box::pin(sqlx::query(noun.sql).persistent(false).fetch(connection).and_then(thing))
}

async fn compare(
    noun: &Noun,
    mut then: impl Stream<Item = Result<Thing, sqlx::Error>> + Unpin,
    mut now: impl Stream<Item = Result<Thing, sqlx::Error>> + Unpin,
    list: usize,
) -> Result<NounComparison, sqlx::Error> {
    let mut compared = NounComparison {
        noun: noun.name.to_owned(),
        then: 0,
        now: 0,
        lost: 0,
        added: 0,
        changed: 0,
        items: Vec::new(),
    };
    let (mut before, mut after) = (then.try_next().await?, now.try_next().await?);
    loop {
        let order = match (&before, &after) {
            (None, None) => return Ok(compared),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            // Ids in canonical form are in the order of their bytes, as the server has them.
            (Some(before), Some(after)) => before.id.cmp(&after.id),
        };
        let was = if order.is_le() { before.take() } else { None };
        let is = if order.is_ge() { after.take() } else { None };
        if was.is_some() {
            compared.then += 1;
            before = then.try_next().await?;
        }
        if is.is_some() {
            compared.now += 1;
            after = now.try_next().await?;
        }
        note(&mut compared, was, is, list);
    }
}

fn note(compared: &mut NounComparison, was: Option<Thing>, is: Option<Thing>, list: usize) {
    let (count, change, thing) = match (was, is) {
        (Some(was), Some(is)) if was.digest == is.digest => return,
        (Some(_), Some(is)) => (&mut compared.changed, Change::Changed, is),
        (Some(was), None) => (&mut compared.lost, Change::Lost, was),
        (None, Some(is)) => (&mut compared.added, Change::Added, is),
        (None, None) => return,
    };
    *count += 1;
    if compared.items.len() < list {
        compared.items.push(ComparedItem { id: thing.id, name: thing.name, change });
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use proptest::prelude::*;

    use super::*;

    fn side(things: &std::collections::BTreeMap<u8, u8>) -> Vec<Result<Thing, sqlx::Error>> {
        let thing = |(id, digest): (&u8, &u8)| {
            Ok(Thing { id: format!("{id:03}"), name: String::new(), digest: digest.to_string() })
        };
        things.iter().map(thing).collect()
    }

    proptest! {
        #[test]
        fn everything_is_counted_once(
            then in proptest::collection::btree_map(0u8..20, 0u8..3, 0..20),
            now in proptest::collection::btree_map(0u8..20, 0u8..3, 0..20),
        ) {
            let comparing = compare(&NOUNS[0], stream::iter(side(&then)), stream::iter(side(&now)), 5);
            let found = futures_util::FutureExt::now_or_never(comparing);
            let found = found.expect("nothing to wait for").expect("no error");
            let lost = then.keys().filter(|id| !now.contains_key(id)).count();
            let added = now.keys().filter(|id| !then.contains_key(id)).count();
            let changed = then.iter().filter(|(id, d)| now.get(id).is_some_and(|n| n != *d)).count();
            let counts = [found.then, found.now, found.lost, found.added, found.changed];
            let wanted = [then.len(), now.len(), lost, added, changed];
            prop_assert_eq!(counts.map(|count| usize::try_from(count).unwrap_or_default()), wanted);
            prop_assert_eq!(found.items.len(), (lost + added + changed).min(5));
        }
    }
}
