//! A course: its public page, its home for those who are in it, and the list of one's own.

pub mod card;
pub mod outline;

use axum::{
    extract::Path,
    response::{IntoResponse as _, Redirect, Response},
};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    accounts::{Account, Role},
    covers,
    enrolments::{Enrolment, State},
    lessons::markdown,
    rejection::Rejection,
    values,
    visit::Visit,
};

/// How hard it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type)]
#[sqlx(type_name = "difficulty_level", rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Needs nothing.
    Beginner,
    /// Needs the basics.
    Intermediate,
    /// Needs experience.
    Advanced,
}

impl Level {
    /// From easy to hard.
    pub const ALL: [Self; 3] = [Self::Beginner, Self::Intermediate, Self::Advanced];

    /// From the name in URLs.
    pub fn from_name(name: &str) -> Option<Self> {
        serde_json::from_value(name.into()).ok()
    }
}

/// Whether it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type)]
#[sqlx(type_name = "course_status", rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Only its makers see it.
    Draft,
    /// In the catalogue.
    Published,
    /// Only who is in it sees it.
    Archived,
}

/// How people get in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, sqlx::Type)]
#[sqlx(type_name = "enrollment_type", rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum EnrolmentType {
    /// At once.
    Open,
    /// When an instructor agrees.
    Approval,
    /// Only when an instructor puts them in.
    Restricted,
}

/// What it costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, sqlx::Type)]
#[sqlx(type_name = "pricing_type", rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub enum Pricing {
    /// Nothing.
    Free,
    /// One payment.
    OneTime,
    /// A subscription.
    Subscription,
    /// Either.
    OneTimeOrSubscription,
}

/// A course, as its pages show it.
#[derive(Clone, Debug, Serialize)]
pub struct Course {
    /// The id.
    pub id: Uuid,
    /// In URLs.
    pub slug: String,
    /// For people.
    pub title: String,
    /// Markdown.
    #[serde(skip)]
    pub overview: String,
    /// The subject's slug.
    pub subject_slug: String,
    /// The subject's title.
    pub subject_title: String,
    /// Who answers for it.
    #[serde(skip)]
    pub owner_id: Uuid,
    /// Who teaches it.
    pub owner_name: String,
    /// The language that it is in.
    pub language: String,
    /// Whether it is shown.
    pub status: Status,
    /// How hard.
    pub level: Option<Level>,
    /// About how long.
    pub hours: Option<i32>,
    /// How people get in.
    pub enrolment_type: EnrolmentType,
    /// How many fit.
    pub max_capacity: Option<i32>,
    /// What it costs.
    pub pricing: Pricing,
    /// The price for people, if it has one.
    pub price: Option<String>,
    /// The path of its picture.
    pub cover: String,
    /// When it last changed, as a date of the site's zone.
    pub updated: String,
}

impl Course {
    /// The course, whoever may see it.
    ///
    /// # Errors
    /// [`Rejection::NotFound`] when there is none.
    pub async fn find(visit: &Visit, slug: &str) -> Result<Self, Rejection> {
        let row = sqlx::query!(
            r#"select c.id, c.slug, c.title, c.overview, s.slug as subject_slug,
                      s.title as subject_title, c.owner_id, a.name as owner_name, c.language,
                      c.status as "status: Status", c.difficulty_level as "level: Level",
                      c.estimated_hours, c.enrollment_type as "enrolment_type: EnrolmentType",
                      c.max_capacity, c.pricing as "pricing: Pricing", c.price_minor, c.currency,
                      f.id as "cover_id?", f.name as "cover_name?",
                      (c.updated_at at time zone $2)::date::text as "updated!"
               from course c join subject s on s.id = c.subject_id
               join account a on a.id = c.owner_id
               left join file f on f.id = c.cover_file_id
               where c.slug = $1"#,
            slug,
            visit.settings.time_zone
        )
        .fetch_optional(visit.site.database().await?)
        .await?
        .ok_or(Rejection::NotFound)?;
        Ok(Self {
            cover: covers::path(row.id, row.cover_id.zip(row.cover_name), &visit.settings),
            price: row.price_minor.map(|minor| price(visit, minor, &row.currency)),
            id: row.id,
            slug: row.slug,
            title: row.title,
            overview: row.overview,
            subject_slug: row.subject_slug,
            subject_title: row.subject_title,
            owner_id: row.owner_id,
            owner_name: row.owner_name,
            language: row.language,
            status: row.status,
            level: row.level,
            hours: row.estimated_hours,
            enrolment_type: row.enrolment_type,
            max_capacity: row.max_capacity,
            pricing: row.pricing,
            updated: row.updated,
        })
    }

    /// Whether this person makes or oversees the course, and so sees all of it.
    pub fn is_kept_by(&self, account: Option<&Account>) -> bool {
        account.is_some_and(|account| keeps(account.role, account.id, self.owner_id))
    }
}

/// Whether somebody of this role and id sees all of a course with this owner.
pub fn keeps(role: Role, account: Uuid, owner: Uuid) -> bool {
    role.sees_all_courses() || (role.teaches() && account == owner)
}

fn price(visit: &Visit, minor: i64, currency: &str) -> String {
    let number = |whole| crate::locales::number(visit.language, whole);
    match currency {
        "IDR" => format!("Rp {}", number(minor)),
        other => {
            let sign = if other == "EUR" { "€" } else { "$" };
            format!("{sign}{}.{:02}", number(minor / 100), minor % 100)
        }
    }
}

/// `GET /courses/{slug}`
pub async fn show(visit: Visit, Path(slug): Path<String>) -> Result<Response, Rejection> {
    let course = Course::find(&visit, &slug).await?;
    let database = visit.site.database().await?;
    let enrolment = match &visit.account {
        Some(account) => Enrolment::find(database, course.id, account.id).await?,
        None => None,
    };
    let keeper = course.is_kept_by(visit.account.as_ref());
    let is_in = enrolment.as_ref().is_some_and(Enrolment::opens_lessons);
    if course.status != Status::Published && !keeper && !is_in {
        return Err(Rejection::NotFound);
    }
    let modules = outline::of(database, course.id, enrolment.as_ref().map(|one| one.id)).await?;
    let seats = seats(database, &course).await?;
    let overview = markdown::to_html(&course.overview, "about-");
    let kinds = outline::kinds(database, course.id).await?;
    let values = values! {
        course, enrolment, keeper, is_in, overview, kinds, seats,
        progress => outline::progress(&modules),
        next => outline::next(&modules, enrolment.as_ref().and_then(|one| one.last_content_id)),
        lessons => modules.iter().map(|module| module.contents.len()).sum::<usize>(),
        modules,
    };
    visit.page("courses/course.html", values)
}

/// Learners in it, and seats left where they are limited.
#[derive(Serialize)]
struct Seats {
    taken: i64,
    left: Option<i64>,
}

async fn seats(database: &PgPool, course: &Course) -> Result<Seats, Rejection> {
    let taken = sqlx::query_scalar!(
        r#"select count(*) as "taken!" from enrolment
           where course_id = $1 and state in ('enrolled', 'completed', 'paused')"#,
        course.id
    )
    .fetch_one(database)
    .await?;
    Ok(Seats { taken, left: course.max_capacity.map(|most| (i64::from(most) - taken).max(0)) })
}

/// `GET /courses/{slug}/learn`: where learners go on.
pub async fn home(visit: Visit, Path(slug): Path<String>) -> Result<Response, Rejection> {
    let account = visit.signed_in()?;
    let course = Course::find(&visit, &slug).await?;
    let database = visit.site.database().await?;
    let enrolment = Enrolment::find(database, course.id, account.id).await?;
    let keeper = course.is_kept_by(Some(account));
    if !keeper && !enrolment.as_ref().is_some_and(Enrolment::opens_lessons) {
        return Ok(Redirect::to(&format!("/courses/{}", course.slug)).into_response());
    }
    let modules = outline::of(database, course.id, enrolment.as_ref().map(|one| one.id)).await?;
    let minutes = match &enrolment {
        Some(enrolment) => crate::progress::minutes(database, enrolment.id).await?,
        None => 0,
    };
    let values = values! {
        course, enrolment, keeper, minutes,
        progress => outline::progress(&modules),
        next => outline::next(&modules, enrolment.as_ref().and_then(|one| one.last_content_id)),
        modules,
    };
    visit.page("courses/home.html", values)
}

#[derive(Serialize)]
struct Mine {
    slug: String,
    title: String,
    cover: String,
    subject: String,
    state: State,
    opens: bool,
    progress: crate::progress::Progress,
}

/// `GET /my-courses`
pub async fn mine(visit: Visit) -> Result<Response, Rejection> {
    let account = visit.signed_in()?;
    let rows = sqlx::query!(
        r#"select c.id, c.slug, c.title, s.title as subject, e.state as "state: State",
                  e.access as "access: crate::enrolments::Access",
                  f.id as "cover_id?", f.name as "cover_name?",
                  (select count(*) from content t join module m on m.id = t.module_id
                   where m.course_id = c.id) as "contents!",
                  (select count(*) from content_progress p join content t on t.id = p.content_id
                   where p.enrolment_id = e.id and p.completed_at is not null) as "done!"
           from enrolment e join course c on c.id = e.course_id
           join subject s on s.id = c.subject_id
           left join file f on f.id = c.cover_file_id
           where e.account_id = $1 and e.state <> 'withdrawn'
           order by e.last_activity_at desc nulls last, e.requested_at desc"#,
        account.id
    )
    .fetch_all(visit.site.database().await?)
    .await?;
    let courses: Vec<_> = rows
        .into_iter()
        .map(|row| Mine {
            cover: covers::path(row.id, row.cover_id.zip(row.cover_name), &visit.settings),
            slug: row.slug,
            title: row.title,
            subject: row.subject,
            state: row.state,
            opens: row.state.opens_lessons(row.access),
            progress: crate::progress::Progress::of(row.done, row.contents),
        })
        .collect();
    visit.page("courses/mine.html", values! { courses })
}
