//! The one place where a reason becomes an answer (RFC 9457).

use std::any::Any;

use axum::{
    Json,
    http::{StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use provisioner_api::{Problem, problem};
use tracing::error;

use crate::{
    control_db::clusters::PlaceError, engine::worker::chain, previews::NotMade,
    site_database::is_lost,
};

/// A request that is not granted.
#[derive(Debug)]
pub struct Refusal(Box<Problem>);

impl Refusal {
    /// With the kind of problem (as `slug-taken`), its title, and what to do.
    pub fn new(status: StatusCode, kind: &str, title: &str, detail: impl Into<String>) -> Self {
        Self(Box::new(Problem {
            kind: format!("/problems/{kind}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            field: None,
            component: None,
        }))
    }

    /// A field of the request is not as it must be.
    pub fn invalid(field: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", "The request is not valid", detail)
            .field(field)
    }

    /// What was asked for is not there.
    pub fn not_found(what: &str, name: &str) -> Self {
        let detail = format!("there is no {what} '{name}'");
        Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", detail)
    }

    /// It cannot be done as things stand.
    pub fn conflict(kind: &str, title: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, kind, title, detail)
    }

    /// Something that is needed does not answer or has no room.
    pub fn unavailable(component: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not available now", detail)
            .component(component)
    }

    /// No valid token came with the request.
    pub fn unauthorised(detail: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorised", "No valid token", detail)
    }

    /// Names the field at fault.
    #[must_use]
    pub fn field(mut self, field: &str) -> Self {
        self.0.field = Some(field.to_owned());
        self
    }

    /// Names the part of the platform at fault.
    #[must_use]
    pub fn component(mut self, component: &str) -> Self {
        self.0.component = Some(component.to_owned());
        self
    }

    /// Something broke that the caller cannot mend.
    pub fn internal(error: &(impl std::error::Error + ?Sized)) -> Self {
        error!(error = %chain(error), "a request could not be answered");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "The provisioner failed",
            "the provisioner could not do this; its log says why",
        )
    }
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            error if is_lost(error) => {
                error!(error = %chain(&error), "the control database does not answer");
                Self::unavailable("control database", "the control database does not answer")
            }
            sqlx::Error::Database(cause)
                if cause.code().is_some_and(|code| {
                    code.starts_with("57P") || code.starts_with("53") || code.starts_with("08")
                }) =>
            {
                error!(error = %chain(&error), "the control database refuses");
                Self::unavailable("control database", "the control database takes no work now")
            }
            _ => Self::internal(&error),
        }
    }
}

impl From<NotMade> for Refusal {
    fn from(error: NotMade) -> Self {
        match error {
            NotMade::OutOfReach(why) => {
                Self::conflict("out-of-reach", "That moment cannot be brought back", why)
                    .field("at")
            }
            NotMade::Repeated => Self::conflict(
                "repeated",
                "The same request is being recorded",
                "the same idempotency key was just used; ask again",
            ),
            NotMade::Database(error) => error.into(),
            other => Self::internal(&other),
        }
    }
}

impl From<PlaceError> for Refusal {
    fn from(error: PlaceError) -> Self {
        match error {
            PlaceError::Absent { .. } => {
                Self::new(StatusCode::NOT_FOUND, "not-found", "Not found", error.to_string())
            }
            PlaceError::NoRegion(_) => Self::invalid("region", error.to_string()),
            PlaceError::InUse { .. } => {
                Self::conflict("in-use", "In use", error.to_string()).field("region")
            }
            PlaceError::Field { field, .. } => Self::invalid(field, error.to_string()),
            PlaceError::SiteDatabase(error) => Self::unavailable(&error.component(), chain(&error)),
            PlaceError::SiteStorage(error) => Self::unavailable(&error.component(), chain(&error)),
            PlaceError::Secret(error) => Self::internal(&error),
            PlaceError::Control(error) => error.into(),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(&*self.0)).into_response();
        let kind = axum::http::HeaderValue::from_static(problem::CONTENT_TYPE);
        response.headers_mut().insert(CONTENT_TYPE, kind);
        response
    }
}

/// For a path that the API does not have.
pub async fn no_such_path(uri: Uri) -> Refusal {
    Refusal::not_found("path", uri.path())
}

/// For a method that a path does not have.
pub async fn no_such_method() -> Refusal {
    Refusal::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method",
        "Wrong method",
        "this path does not have that method; see /openapi.json",
    )
}

/// For a handler that panicked.
pub fn panicked(_: Box<dyn Any + Send + 'static>) -> Response {
    error!("a handler panicked");
    Refusal::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "The provisioner failed",
        "the provisioner could not do this; its log says why",
    )
    .into_response()
}
