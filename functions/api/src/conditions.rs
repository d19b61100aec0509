//! Optimistic concurrency: what a request says of the revision that it is about (RFC 9110, section 13.1).

use axum::{
    Json,
    body::Body,
    extract::FromRequestParts,
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{IntoResponse as _, Response},
};
use serde::Serialize;
use transship_model::Problem;

use crate::failure::Failure;

/// The headers `If-Match` and `If-None-Match`.
#[derive(Debug, Default)]
pub(crate) struct Conditions {
    only: Option<Tags>,
    not: Option<Tags>,
}

#[derive(Debug)]
enum Tags {
    Any,
    These(Vec<String>),
}

impl Tags {
    fn read(headers: &HeaderMap, name: header::HeaderName) -> Option<Self> {
        let lines: Vec<&str> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
        let tags: Vec<String> = lines.iter().flat_map(|line| line.split(',')).map(|tag| tag.trim().to_owned()).collect();
        if lines.is_empty() {
            return None;
        }
        Some(if tags.iter().any(|tag| tag == "*") { Self::Any } else { Self::These(tags) })
    }

    /// Whether they name what is there. Only strong tags do (section 8.8.3.2), and ours are.
    fn meet(&self, revision: Option<u64>) -> bool {
        match (self, revision) {
            (_, None) => false,
            (Self::Any, Some(_)) => true,
            (Self::These(tags), Some(revision)) => tags.contains(&tag(revision)),
        }
    }
}

/// The entity tag of a revision.
pub(crate) fn tag(revision: u64) -> String {
    format!("\"{revision}\"")
}

impl Conditions {
    /// Judges what is there, by its revision.
    ///
    /// # Errors
    /// 412, with what to do.
    pub(crate) fn check(&self, revision: Option<u64>) -> Result<(), Failure> {
        let now = revision.map_or_else(|| "it is not there".to_owned(), |revision| format!("its ETag is {}", tag(revision)));
        let failed = |code: &str, detail| Failure(Problem { code: Some(code.to_owned()), ..Problem::new(412, detail) });
        if self.only.as_ref().is_some_and(|tags| !tags.meet(revision)) {
            let detail =
                format!("If-Match does not name what is there ({now}): read it, look what has changed, and send yours again");
            return Err(failed(Problem::CHANGED, detail));
        }
        if self.not.as_ref().is_some_and(|tags| tags.meet(revision)) {
            let detail = format!(
                "there is one already ({now}), and If-None-Match says that it is to be new: leave that header out to replace it"
            );
            return Err(failed(Problem::EXISTS, detail));
        }
        Ok(())
    }

    /// Whether the reader has this revision already.
    pub(crate) fn has(&self, revision: u64) -> bool {
        self.not.as_ref().is_some_and(|tags| tags.meet(Some(revision)))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Conditions {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let read = |name| Tags::read(&parts.headers, name);
        Ok(Self { only: read(header::IF_MATCH), not: read(header::IF_NONE_MATCH) })
    }
}

/// An answer with the entity tag of what it shows.
pub(crate) fn tagged(status: StatusCode, revision: u64, view: impl Serialize) -> Response<Body> {
    (status, [(header::ETAG, tag(revision))], Json(view)).into_response()
}

/// The answer to a reader: what it asks for, or that it has it already.
pub(crate) fn shown(conditions: &Conditions, revision: u64, view: impl Serialize) -> Response<Body> {
    if conditions.has(revision) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, tag(revision))]).into_response();
    }
    tagged(StatusCode::OK, revision, view)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(only: Option<&'static str>, not: Option<&'static str>, revision: Option<u64>) -> u16 {
        let pairs = [(header::IF_MATCH, only), (header::IF_NONE_MATCH, not)];
        let headers: HeaderMap = pairs.into_iter().filter_map(|(name, value)| Some((name, value?.parse().ok()?))).collect();
        let conditions =
            Conditions { only: Tags::read(&headers, header::IF_MATCH), not: Tags::read(&headers, header::IF_NONE_MATCH) };
        conditions.check(revision).map_or_else(|Failure(problem)| problem.status, |()| 200)
    }

    /// Would break: a change of something else than its author has seen; a new thing in the place of one that was there.
    #[test]
    fn a_change_is_of_the_revision_that_it_names() {
        assert_eq!(status(None, None, None), 200);
        assert_eq!(status(None, None, Some(3)), 200);
        assert_eq!(status(Some("\"3\""), None, Some(3)), 200);
        assert_eq!(status(Some("\"2\", \"3\""), None, Some(3)), 200);
        assert_eq!(status(Some("\"2\""), None, Some(3)), 412);
        assert_eq!(status(Some("W/\"3\""), None, Some(3)), 412, "a weak tag never matches strongly");
        assert_eq!(status(Some("*"), None, Some(3)), 200);
        assert_eq!(status(Some("*"), None, None), 412);
        assert_eq!(status(Some("\"1\""), None, None), 412);
        assert_eq!(status(None, Some("*"), Some(1)), 412);
        assert_eq!(status(None, Some("*"), None), 200);
    }
}
