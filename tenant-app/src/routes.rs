//! The whole URL table, and around it what every request passes, outermost first: the site and
//! generation check, security headers, error pages, who may see a preview, the origin check.

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware::{from_fn, from_fn_with_state},
    routing::{get, post},
};
use tower_http::{CompressionLevel, catch_panic::CatchPanicLayer, compression::CompressionLayer};

use crate::{
    accounts::{invitation, language, sign_in},
    assets, catalogue, courses, covers, csrf, enrolments, fence, files, form, health, home,
    lessons, preview, progress, rejection, security_headers, settings,
    site::Site,
    studio,
};

/// Everything that the process answers.
pub fn router(site: Arc<Site>) -> Router {
    let pages = Router::new()
        .route("/", get(home::show))
        .route("/courses", get(catalogue::show))
        .route("/courses/{slug}", get(courses::show))
        .route("/courses/{slug}/enrol", post(enrolments::enrol))
        .route("/courses/{slug}/withdraw", post(enrolments::withdraw))
        .route("/courses/{slug}/learn", get(courses::home))
        .route("/courses/{slug}/lessons/{content}", get(lessons::show))
        .route("/courses/{slug}/lessons/{content}/done", post(progress::mark_done))
        .route("/my-courses", get(courses::mine))
        .route("/sign-in", get(sign_in::ask).post(sign_in::sign_in))
        .route("/sign-out", post(sign_in::sign_out))
        .route("/invitation/{token}", get(invitation::ask).post(invitation::accept))
        .route("/language", post(language::choose))
        .route(preview::PATH, get(preview::open))
        .route("/studio", get(studio::courses))
        .route("/studio/courses/{slug}", get(studio::course))
        .route("/studio/enrolments/{enrolment}/approve", post(enrolments::approve))
        .route("/studio/enrolments/{enrolment}/reject", post(enrolments::reject))
        .route("/assets/{name}", get(assets::show))
        .route("/theme/{name}", get(settings::stylesheet))
        .route("/covers/{name}", get(covers::show))
        .route("/robots.txt", get(home::robots))
        .layer(DefaultBodyLimit::max(form::MAX_BYTES))
        // Small pages: a better ratio would cost megabytes of memory for each answer.
        .layer(CompressionLayer::new().quality(CompressionLevel::Fastest));

    // Streams: limited while they are read, never compressed.
    let files = Router::new()
        .route("/files/{id}/{name}", get(files::download))
        .route("/studio/lessons/{content}/items", post(studio::upload::add_item))
        .route("/studio/import", post(studio::import::import))
        .layer(DefaultBodyLimit::disable());

    let site_routes = pages
        .merge(files)
        .fallback(|| async { rejection::Rejection::NotFound })
        .layer(from_fn(csrf::same_origin))
        .layer(from_fn_with_state(Arc::clone(&site), preview::admit))
        .layer(CatchPanicLayer::custom(rejection::panicked))
        .layer(from_fn_with_state(Arc::clone(&site), rejection::explain))
        .layer(from_fn_with_state(Arc::clone(&site), security_headers::add))
        .layer(from_fn_with_state(Arc::clone(&site), fence::admit));

    Router::new()
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .merge(site_routes)
        .with_state(site)
}
