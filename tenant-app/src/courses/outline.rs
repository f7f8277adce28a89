//! The outline of a course: its modules and contents in order, with what a learner has done.

use serde::Serialize;
use sqlx::PgPool;
use uuid::Uuid;

use crate::{progress::Progress, rejection::Rejection};

/// A module.
#[derive(Debug, Serialize)]
pub struct Module {
    /// The id.
    pub id: Uuid,
    /// For people.
    pub title: String,
    /// For people.
    pub description: String,
    /// In order.
    pub contents: Vec<Content>,
    /// How many of them are done.
    pub done: usize,
}

/// A content: one page of lessons.
#[derive(Clone, Debug, Serialize)]
pub struct Content {
    /// The id.
    pub id: Uuid,
    /// For people.
    pub title: String,
    /// Whether the learner has marked it.
    pub done: bool,
    /// The kind that stands for it: the heaviest of its items.
    pub kind: String,
}

/// The outline, with what has been done in one enrolment.
///
/// # Errors
/// When the database does not answer.
pub async fn of(
    database: &PgPool,
    course: Uuid,
    enrolment: Option<Uuid>,
) -> Result<Vec<Module>, Rejection> {
    let rows = sqlx::query!(
        r#"select m.id as module_id, m.title as module_title, m.description,
                  t.id as "content_id?", t.title as "content_title?",
                  p.completed_at is not null as "done!",
                  (select max(i.kind)::text from content_item i where i.content_id = t.id) as kind
           from module m left join content t on t.module_id = m.id
           left join content_progress p on p.content_id = t.id and p.enrolment_id = $2
           where m.course_id = $1
           order by m.position, m.id, t.position, t.id"#,
        course,
        enrolment
    )
    .fetch_all(database)
    .await?;
    let mut modules: Vec<Module> = Vec::new();
    for row in rows {
        if modules.last().is_none_or(|module| module.id != row.module_id) {
            modules.push(Module {
                id: row.module_id,
                title: row.module_title,
                description: row.description,
                contents: Vec::new(),
                done: 0,
            });
        }
        if let (Some(module), Some(id), Some(title)) =
            (modules.last_mut(), row.content_id, row.content_title)
        {
            module.done += usize::from(row.done);
            let kind = row.kind.unwrap_or_else(|| "text".to_owned());
            module.contents.push(Content { id, title, done: row.done, kind });
        }
    }
    Ok(modules)
}

/// How many items of each kind there are, and the bytes of all files.
#[derive(Serialize)]
pub struct Kinds {
    texts: i64,
    images: i64,
    files: i64,
    videos: i64,
}

/// What a course consists of.
///
/// # Errors
/// When the database does not answer.
pub async fn kinds(database: &PgPool, course: Uuid) -> Result<Kinds, Rejection> {
    let kinds = sqlx::query_as!(
        Kinds,
        r#"select count(*) filter (where kind = 'text') as "texts!",
                  count(*) filter (where kind = 'image') as "images!",
                  count(*) filter (where kind = 'file') as "files!",
                  count(*) filter (where kind = 'video') as "videos!"
           from content_item i join content t on t.id = i.content_id
           join module m on m.id = t.module_id where m.course_id = $1"#,
        course
    )
    .fetch_one(database)
    .await?;
    Ok(kinds)
}

fn contents(modules: &[Module]) -> impl Iterator<Item = &Content> {
    modules.iter().flat_map(|module| &module.contents)
}

/// How far somebody is.
pub fn progress(modules: &[Module]) -> Progress {
    let done = contents(modules).filter(|content| content.done).count();
    let all = contents(modules).count();
    Progress::of(i64::try_from(done).unwrap_or(0), i64::try_from(all).unwrap_or(0))
}

/// Where to go on: the last opened content if it is not done, else the first that is not done,
/// else the first.
pub fn next(modules: &[Module], last: Option<Uuid>) -> Option<Uuid> {
    let open = |content: &&Content| !content.done;
    let last = last.and_then(|last| contents(modules).find(|content| content.id == last));
    last.filter(open)
        .or_else(|| contents(modules).find(open))
        .or_else(|| contents(modules).next())
        .map(|content| content.id)
}

/// The contents before and after one, across modules.
pub fn around(modules: &[Module], content: Uuid) -> (Option<&Content>, Option<&Content>) {
    let all: Vec<_> = contents(modules).collect();
    let here = all.iter().position(|one| one.id == content);
    let before = here.and_then(|here| here.checked_sub(1)).and_then(|before| all.get(before));
    let after = here.and_then(|here| all.get(here + 1));
    (before.copied(), after.copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outline(done: &[&[bool]]) -> Vec<Module> {
        let mut number = 0;
        let mut content = |done: &bool| {
            number += 1;
            Content {
                id: Uuid::from_u128(number),
                title: String::new(),
                done: *done,
                kind: String::new(),
            }
        };
        let module = |contents: Vec<Content>| Module {
            id: Uuid::nil(),
            title: String::new(),
            description: String::new(),
            done: 0,
            contents,
        };
        done.iter().map(|contents| module(contents.iter().map(&mut content).collect())).collect()
    }

    #[test]
    fn going_on() {
        let id = |number| Some(Uuid::from_u128(number));
        let modules = outline(&[&[true, false], &[], &[false]]);
        assert_eq!(next(&modules, None), id(2));
        assert_eq!(next(&modules, id(3)), id(3));
        assert_eq!(next(&modules, id(1)), id(2));
        assert_eq!(next(&outline(&[&[true]]), id(1)), id(1));
        assert_eq!(next(&outline(&[&[]]), None), None);
        let (before, after) = around(&modules, Uuid::from_u128(2));
        assert_eq!((before.map(|c| c.id), after.map(|c| c.id)), (id(1), id(3)));
        assert!(around(&modules, Uuid::from_u128(9)).0.is_none());
    }
}
