//! What goes wrong, as RFC 9457 problem details.

use std::any::Any;

use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::engine::Refused;
use crate::secrets::SecretsError;
use crate::store::StoreError;

/// A refusal or failure, with all that its receiver may know.
#[derive(Debug, Serialize)]
pub struct Problem {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    detail: String,
    /// Every mistake, where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<String>,
    #[serde(skip)]
    header: Option<Box<(HeaderName, HeaderValue)>>,
}

/// What handlers give.
pub(super) type Answer<T> = Result<axum::Json<T>, Problem>;

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Problem {
        Problem {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            header: None,
        }
    }

    /// There is no `what`.
    pub(super) fn missing(what: impl std::fmt::Display) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, format!("there is no {what}"))
    }

    /// Every mistake in what was sent.
    pub(super) fn invalid(errors: Vec<String>) -> Problem {
        let errors =
            if errors.is_empty() { vec!["this request is not understood".to_owned()] } else { errors };
        Problem {
            errors: errors.clone(),
            ..Problem::new(StatusCode::UNPROCESSABLE_ENTITY, errors.join("; "))
        }
    }

    pub(super) fn forbidden(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::FORBIDDEN, detail)
    }

    pub(super) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Problem {
        self.header = Some(Box::new((name, value)));
        self
    }

    fn busy(seconds: u32) -> Problem {
        let detail = format!("too much at once; try again in {seconds} s");
        Problem::new(StatusCode::TOO_MANY_REQUESTS, detail)
            .with_header(header::RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// Says nothing of the inside; the log has it.
    fn internal(error: &dyn std::error::Error) -> Problem {
        tracing::error!(%error, "a request failed");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the server failed on this request; its log says why")
    }

    fn away(error: &StoreError) -> Problem {
        tracing::error!(%error, "the store can't be used");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
            .with_header(header::RETRY_AFTER, HeaderValue::from(5))
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        match &error {
            StoreError::Busy => Problem::busy(1),
            StoreError::Conflict(_) => Problem::new(StatusCode::CONFLICT, error.to_string()),
            StoreError::Missing(what) => Problem::missing(what),
            StoreError::TooLong(_) => Problem::invalid(vec![error.to_string()]),
            StoreError::Corrupt { .. } | StoreError::Sql(_) => Problem::internal(&error),
            _ => Problem::away(&error),
        }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Problem {
        match refused {
            Refused::NotFound(detail) => Problem::new(StatusCode::NOT_FOUND, detail),
            Refused::Conflict(detail) => Problem::new(StatusCode::CONFLICT, detail),
            Refused::Forbidden(detail) => Problem::new(StatusCode::FORBIDDEN, detail),
            Refused::Invalid(errors) => Problem::invalid(errors),
            Refused::Busy(seconds) => Problem::busy(seconds),
            Refused::Store(error) => Problem::from(error),
        }
    }
}

impl From<SecretsError> for Problem {
    fn from(error: SecretsError) -> Problem {
        match error {
            SecretsError::Name(_) | SecretsError::TooLong => Problem::invalid(vec![error.to_string()]),
            SecretsError::Store(error) => Problem::from(error),
            other => Problem::internal(&other),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_string(&self).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some((name, value)) = self.header.map(|header| *header) {
            headers.insert(name, value);
        }
        response
    }
}

pub(super) fn not_signed_in(why: &str) -> Response {
    Problem::new(StatusCode::UNAUTHORIZED, why)
        .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"siskin\""))
        .into_response()
}

pub(super) async fn no_such_path(uri: Uri) -> Problem {
    let path: String = uri.path().chars().take(200).collect();
    Problem::new(StatusCode::NOT_FOUND, format!("there is nothing at {path}"))
}

pub(super) async fn no_such_method(method: Method) -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not possible here"))
}

pub(super) fn of_panic(panic: Box<dyn Any + Send>) -> Response {
    let text =
        panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!(panic = text.unwrap_or("(no text)"), "a request panicked");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the server failed on this request; its log says why")
        .into_response()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_refusal_has_its_status() {
        let statuses = [
            (Problem::from(Refused::NotFound(String::new())), 404),
            (Problem::from(Refused::Conflict(String::new())), 409),
            (Problem::from(Refused::Forbidden(String::new())), 403),
            (Problem::from(Refused::Invalid(vec![])), 422),
            (Problem::from(Refused::Busy(2)), 429),
            (Problem::from(Refused::Store(StoreError::Busy)), 429),
            (Problem::from(StoreError::Away("gone".to_owned())), 503),
            (Problem::from(StoreError::Full), 503),
            (Problem::from(StoreError::Missing("run 1".to_owned())), 404),
            (Problem::from(StoreError::Sql("SELECT secret".to_owned())), 500),
        ];
        for (problem, status) in statuses {
            assert_eq!(problem.status, status, "{problem:?}");
        }
    }

    #[test]
    fn a_problem_says_each_mistake_and_nothing_of_the_inside() {
        let shown = serde_json::to_value(Problem::invalid(vec!["a".to_owned(), "b".to_owned()])).unwrap();
        assert_eq!(
            shown,
            json!({"type": "about:blank", "title": "Unprocessable Entity", "status": 422, "detail": "a; b", "errors": ["a", "b"]})
        );
        let inside =
            serde_json::to_string(&Problem::from(StoreError::Sql("SELECT secret".to_owned()))).unwrap();
        assert!(!inside.contains("SELECT"), "{inside}");
    }

    #[test]
    fn who_is_asked_to_come_again_is_told_when() {
        let response = Problem::from(Refused::Busy(7)).into_response();
        assert_eq!(response.headers()[header::RETRY_AFTER], "7");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    }
}
