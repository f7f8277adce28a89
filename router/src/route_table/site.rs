//! A site as the router knows it. There are a hundred thousand of them, so what equals at many sites
//! is kept once, and what few have takes no place in the others.

use std::sync::Arc;

use control_types::{Generation, SiteId, Upstream, hostname::is_local, state::SiteState};
use http::HeaderValue;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Home, RouteRow};
use crate::{shared::Shared, site_traffic::SiteTraffic, upstream::Pool};

/// The longest text that is kept once for all sites.
const SHARED_BYTES: usize = 64;

/// What all requests of a site together may take of one router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiteLimits {
    /// How many requests may begin in a second, in the long run.
    pub requests_per_second: u32,
    /// How many may begin at once after a quiet time.
    pub burst: u32,
    /// How many may be in progress.
    pub concurrent: u32,
}

/// Requests of a site wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Which hold; there may be another one after it.
    pub id: Uuid,
    /// They do not wait longer than until then.
    pub deadline: OffsetDateTime,
}

/// What the router knows of a site. One value per version of the site.
#[derive(Debug)]
pub struct Site {
    /// Who it is.
    pub id: SiteId,
    /// Its short name, for log lines.
    pub slug: Box<str>,
    /// Its name, for pages.
    pub name: Box<str>,
    /// The language of its pages.
    pub default_language: Arc<str>,
    /// Whether it serves.
    pub state: SiteState,
    /// The placement that its requests go to.
    pub generation: Generation,
    /// The region of that placement.
    pub region: Arc<str>,
    /// Raised by every change.
    pub version: i64,
    /// Longest body of a request, in bytes.
    pub max_body_bytes: u64,
    /// What its requests may take of this router.
    pub limits: SiteLimits,
    /// How long browsers shall insist on TLS, in seconds.
    pub hsts_max_age_secs: u32,
    /// Whether its requests shall wait.
    pub hold: Option<Box<Hold>>,
    /// Connections to its instance; none while it has no instance that listens.
    pub upstream: Option<Arc<Pool>>,
    /// What its requests do, over all versions of the site.
    pub traffic: Arc<SiteTraffic>,
    hsts_header: HeaderValue,
    pub(super) hostnames: Box<[Arc<str>]>,
}

impl Site {
    /// What browsers are told of TLS at one of the site's hostnames. Nothing on a developer's own
    /// machine, where the same name may serve something without TLS tomorrow.
    pub fn hsts(&self, hostname: &str) -> Option<HeaderValue> {
        (!is_local(hostname)).then(|| self.hsts_header.clone())
    }

    /// The site as it is after it went to `home`, as far as that can be told from what is known of
    /// it: it serves there, and not here.
    pub fn gone_to(&self, home: Home) -> Arc<Self> {
        Arc::new(Self {
            generation: home.generation,
            region: home.region,
            hold: None,
            upstream: None,
            slug: self.slug.clone(),
            name: self.name.clone(),
            default_language: Arc::clone(&self.default_language),
            traffic: Arc::clone(&self.traffic),
            hsts_header: self.hsts_header.clone(),
            hostnames: self.hostnames.clone(),
            ..*self
        })
    }

    /// A site from one of its rows. What outlives a version is taken over from `before`.
    pub(super) fn from_row(
        row: &RouteRow,
        hostnames: Box<[Arc<str>]>,
        before: Option<&Self>,
    ) -> Self {
        let address = row.upstream.as_deref().and_then(|text| match text.parse::<Upstream>() {
            Ok(address) => Some(address),
            Err(error) => {
                tracing::error!(site.id = %row.site_id, %error, "the upstream of a site is malformed");
                None
            }
        });
        let concurrent = unsigned(row.max_concurrent_requests).max(1);
        let upstream = address.map(|address| {
            before
                .filter(|before| before.generation == row.generation)
                .and_then(|before| before.upstream.clone())
                .filter(|pool| *pool.address() == address && pool.concurrent() == concurrent)
                .unwrap_or_else(|| Arc::new(Pool::new(address, concurrent)))
        });
        let hold = row.hold_id.zip(row.hold_deadline);
        Self {
            id: row.site_id,
            slug: row.slug.as_str().into(),
            name: row.site_name.as_str().into(),
            default_language: shared_text(&row.default_language),
            state: row.site_state,
            generation: row.generation,
            region: shared_text(&row.region),
            version: row.version,
            max_body_bytes: u64::try_from(row.max_body_bytes).unwrap_or(0),
            limits: SiteLimits {
                requests_per_second: unsigned(row.requests_per_second).max(1),
                burst: unsigned(row.request_burst).max(1),
                concurrent,
            },
            hsts_max_age_secs: unsigned(row.hsts_max_age_secs),
            hold: hold.map(|(id, deadline)| Box::new(Hold { id, deadline })),
            upstream,
            traffic: before.map_or_else(Arc::default, |before| Arc::clone(&before.traffic)),
            hsts_header: shared_hsts(unsigned(row.hsts_max_age_secs)),
            hostnames,
        }
    }
}

fn unsigned(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

/// The same text once for all sites: there are few regions and languages.
fn shared_text(text: &str) -> Arc<str> {
    static TEXTS: Shared<Arc<str>, Arc<str>> = Shared::new();
    let new = || Arc::<str>::from(text);
    let shared = (text.len() <= SHARED_BYTES).then(|| {
        TEXTS.get(text, || {
            let new = new();
            (Arc::clone(&new), new)
        })
    });
    shared.flatten().unwrap_or_else(new)
}

/// The same header once for all sites: nearly all have the same age.
fn shared_hsts(max_age_secs: u32) -> HeaderValue {
    static HEADERS: Shared<u32, HeaderValue> = Shared::new();
    let new = || {
        HeaderValue::try_from(format!("max-age={max_age_secs}"))
            .unwrap_or(HeaderValue::from_static("max-age=0"))
    };
    HEADERS.get(&max_age_secs, || (max_age_secs, new())).unwrap_or_else(new)
}
