//! Errors: `application/problem+json` (RFC 9457), or as the AWS SDKs read them.

use std::borrow::Cow;

use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use protocols::connection::{Refusal, RefusalCode};
use protocols::json::{ErrorCode, FrameError};
use serde_json::{Value, json};

use super::body::Body;

/// Why a request is not carried out: what is wrong, and what to do.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    /// The status.
    pub(super) status: StatusCode,
    /// A short name that does not change.
    pub(super) code: &'static str,
    /// For people: the thing, its value and what to do.
    pub(super) detail: Cow<'static, str>,
    /// A further header.
    pub(super) header: Option<(HeaderName, HeaderValue)>,
}

/// Who reads an answer, and in which words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Face {
    /// Polycast's own API.
    Rest,
    /// API Gateway's `@connections`.
    Connections,
    /// AWS IoT's data calls.
    Iot,
}

impl Problem {
    /// A problem.
    pub(super) fn new(
        status: StatusCode,
        code: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            header: None,
        }
    }

    /// 400 for something that the request says.
    pub(super) fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalidRequest", detail)
    }

    /// 404.
    pub(super) fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "notFound", detail)
    }

    /// 413.
    pub(super) fn too_large(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "tooLarge", detail)
    }

    /// With a further header.
    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some((name, value));
        self
    }

    /// Come again in so many seconds.
    pub(super) fn after(self, secs: u32) -> Self {
        self.with(header::RETRY_AFTER, secs.into())
    }

    /// As JSON, for an answer of its own or for one item of many.
    pub(super) fn to_json(&self) -> Value {
        json!({
            "title": self.status.canonical_reason().unwrap_or("error"),
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
        })
    }

    /// The whole answer.
    pub(super) fn into_response(self, face: Face) -> Response<Body> {
        let (kind, text) = match face {
            Face::Rest => ("application/problem+json", self.to_json()),
            _ => ("application/json", json!({"message": self.detail})),
        };
        let mut response = Response::new(Body::from(format!("{text}\n")));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        if let Some(name) = self.exception(face) {
            let value = HeaderValue::from_static(name);
            headers.insert(HeaderName::from_static("x-amzn-errortype"), value);
        }
        if let Some((name, value)) = self.header {
            headers.insert(name, value);
        }
        response
    }

    /// The class that the SDKs make of it.
    fn exception(&self, face: Face) -> Option<&'static str> {
        Some(match (face, self.status.as_u16()) {
            (Face::Rest, _) => return None,
            (Face::Connections, 400) => "BadRequestException",
            (Face::Connections, 401) | (_, 403) => "ForbiddenException",
            (Face::Connections, 410) => "GoneException",
            (Face::Connections, 413) => "PayloadTooLargeException",
            (Face::Connections, 429 | 503 | 507) => "LimitExceededException",
            (Face::Iot, 400) => "InvalidRequestException",
            (Face::Iot, 401) => "UnauthorizedException",
            (Face::Iot, 404) => "ResourceNotFoundException",
            (Face::Iot, 405) => "MethodNotAllowedException",
            (Face::Iot, 413) => "RequestEntityTooLargeException",
            (Face::Iot, 429) => "ThrottlingException",
            (Face::Iot, 503 | 507) => "ServiceUnavailableException",
            _ => "InternalFailureException",
        })
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let code = ErrorCode::from(refusal.code).as_str();
        let problem = Self::new(status(refusal.code), code, refusal.detail);
        match refusal.code {
            RefusalCode::Unavailable | RefusalCode::Busy | RefusalCode::Rate => problem.after(1),
            _ => problem,
        }
    }
}

impl From<FrameError> for Problem {
    fn from(error: FrameError) -> Self {
        let status = match error.code {
            ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.code.as_str(), error.detail)
    }
}

fn status(code: RefusalCode) -> StatusCode {
    match code {
        RefusalCode::Unspecified => StatusCode::INTERNAL_SERVER_ERROR,
        RefusalCode::Implementation
        | RefusalCode::ClientId
        | RefusalCode::FilterInvalid
        | RefusalCode::TopicInvalid
        | RefusalCode::PayloadFormat => StatusCode::BAD_REQUEST,
        RefusalCode::BadCredentials => StatusCode::UNAUTHORIZED,
        RefusalCode::NotAuthorized | RefusalCode::Banned => StatusCode::FORBIDDEN,
        RefusalCode::Unavailable | RefusalCode::Busy => StatusCode::SERVICE_UNAVAILABLE,
        RefusalCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        RefusalCode::Quota => StatusCode::INSUFFICIENT_STORAGE,
        RefusalCode::Rate => StatusCode::TOO_MANY_REQUESTS,
        RefusalCode::Unknown => StatusCode::NOT_FOUND,
    }
}
