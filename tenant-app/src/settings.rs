//! What the institution says about itself: name, look, language, how to reach it. Read from the
//! database at most every few seconds; when the database does not answer, what was known last
//! still names the site on its error pages.

pub mod contrast;
pub mod theme;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{Path, State},
    http::header,
    response::{IntoResponse as _, Response},
};
use serde::Serialize;
use sqlx::PgPool;
use tokio::sync::RwLock;
use uuid::Uuid;

use crate::{assets, locales::Language, rejection::Rejection, site::Site};
use theme::Theme;

/// How old settings may be.
const FRESH: Duration = Duration::from_secs(5);

/// The settings as pages use them.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    /// The institution's name.
    pub name: String,
    /// One line under the name.
    pub tagline: String,
    /// A paragraph for the home page and search engines.
    pub description: String,
    /// The path of the logo.
    pub logo: Option<String>,
    /// The path of the icon in the browser's tab.
    pub icon: String,
    /// Where to write to.
    pub contact_email: Option<String>,
    /// Where help is.
    pub support_email: Option<String>,
    /// To call.
    pub phone: String,
    /// To visit.
    pub address: String,
    /// Name and URL of the pages elsewhere.
    pub social: Vec<(&'static str, String)>,
    /// When nothing else says which language.
    pub language: Language,
    /// IANA name.
    pub time_zone: String,
    /// Colours, corrected for contrast.
    #[serde(skip)]
    pub theme: Theme,
    /// The path of the stylesheet with the colours.
    pub stylesheet: String,
    /// Changes when the look does; in the names of generated images.
    pub look: String,
}

/// The last settings that were read.
#[derive(Default)]
pub struct SettingsCache {
    known: RwLock<Option<(Instant, Arc<Settings>)>>,
}

impl SettingsCache {
    /// The settings, at most a few seconds old; older ones when the database does not answer.
    ///
    /// # Errors
    /// When they were never read and cannot be now.
    pub async fn current(&self, site: &Site) -> Result<Arc<Settings>, Rejection> {
        if let Some((read_at, settings)) = &*self.known.read().await
            && read_at.elapsed() < FRESH
        {
            return Ok(Arc::clone(settings));
        }
        let read = match site.database().await {
            Ok(database) => read(database, site.slug.as_str()).await,
            Err(rejection) => Err(rejection),
        };
        let mut known = self.known.write().await;
        match (read, &*known) {
            (Ok(settings), _) => {
                let settings = Arc::new(settings);
                *known = Some((Instant::now(), Arc::clone(&settings)));
                Ok(settings)
            }
            (Err(Rejection::Unavailable(_)), Some((_, settings))) => Ok(Arc::clone(settings)),
            (Err(rejection), _) => Err(rejection),
        }
    }

    /// For error pages: whatever is known, without asking anybody.
    pub async fn last_known(&self, site: &Site) -> Arc<Settings> {
        match &*self.known.read().await {
            Some((_, settings)) => Arc::clone(settings),
            None => Arc::new(Settings::of(Row::unknown(), site.slug.as_str())),
        }
    }
}

#[derive(Default)]
struct Row {
    name: String,
    tagline: String,
    description: String,
    logo: Option<(Uuid, String)>,
    favicon: Option<(Uuid, String)>,
    primary_color: String,
    secondary_color: String,
    contact_email: Option<String>,
    support_email: Option<String>,
    phone: String,
    address: String,
    social: Vec<(&'static str, String)>,
    default_language: String,
    time_zone: String,
}

impl Row {
    fn unknown() -> Self {
        Self::default()
    }
}

async fn read(database: &PgPool, slug: &str) -> Result<Settings, Rejection> {
    let row = sqlx::query!(
        r#"select s.name as "name!", tagline as "tagline!", description as "description!",
                  primary_color as "primary_color!", secondary_color as "secondary_color!",
                  contact_email, support_email, phone as "phone!", address as "address!",
                  facebook_url, twitter_url, linkedin_url, instagram_url, youtube_url,
                  default_language as "default_language!", time_zone as "time_zone!",
                  logo.id as "logo_id?", logo.name as "logo_name?",
                  favicon.id as "favicon_id?", favicon.name as "favicon_name?"
           from site_settings s
           left join file logo on logo.id = s.logo_file_id
           left join file favicon on favicon.id = s.favicon_file_id"#
    )
    .fetch_optional(database)
    .await?;
    let Some(row) = row else { return Ok(Settings::of(Row::unknown(), slug)) };
    let social = [
        ("Facebook", row.facebook_url),
        ("X", row.twitter_url),
        ("LinkedIn", row.linkedin_url),
        ("Instagram", row.instagram_url),
        ("YouTube", row.youtube_url),
    ];
    let row = Row {
        name: row.name,
        tagline: row.tagline,
        description: row.description,
        logo: row.logo_id.zip(row.logo_name),
        favicon: row.favicon_id.zip(row.favicon_name),
        primary_color: row.primary_color,
        secondary_color: row.secondary_color,
        contact_email: row.contact_email,
        support_email: row.support_email,
        phone: row.phone,
        address: row.address,
        social: social.into_iter().filter_map(|(name, url)| Some((name, url?))).collect(),
        default_language: row.default_language,
        time_zone: row.time_zone,
    };
    Ok(Settings::of(row, slug))
}

impl Settings {
    fn of(row: Row, slug: &str) -> Self {
        let theme = Theme::of(&row.primary_color, &row.secondary_color);
        let css = theme.stylesheet();
        let look = assets::short_hash(css.as_bytes());
        let path = |(id, name): (Uuid, String)| crate::files::path(id, &name);
        Self {
            name: if row.name.is_empty() { slug.to_owned() } else { row.name },
            tagline: row.tagline,
            description: row.description,
            logo: row.logo.map(path),
            icon: row.favicon.map_or_else(|| format!("/covers/icon-{look}.svg"), path),
            contact_email: row.contact_email,
            support_email: row.support_email,
            phone: row.phone,
            address: row.address,
            social: row.social,
            language: Language::from_code(&row.default_language).unwrap_or(Language::Indonesian),
            time_zone: row.time_zone,
            theme,
            stylesheet: format!("/theme/{look}.css"),
            look,
        }
    }
}

/// `GET /theme/{name}`
pub async fn stylesheet(
    State(site): State<Arc<Site>>,
    Path(name): Path<String>,
) -> Result<Response, Rejection> {
    let settings = site.settings.current(&site).await?;
    // A page from just before a change still gets a look, but nobody keeps it under that name.
    let is_current = name.strip_suffix(".css") == Some(&settings.look);
    let keep = if is_current { assets::FOR_EVER } else { "no-cache" };
    let headers =
        [(header::CONTENT_TYPE, "text/css; charset=utf-8"), (header::CACHE_CONTROL, keep)];
    Ok((headers, settings.theme.stylesheet()).into_response())
}
