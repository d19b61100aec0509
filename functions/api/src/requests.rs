//! What a request brings: names from its path, pages from its query. What does not fit is answered with a problem document.

use std::error::Error as _;

use axum::{
    extract::{FromRequestParts, path::ErrorKind, rejection::PathRejection},
    http::request::Parts,
};
use jiff::Timestamp;
use serde::{Deserialize, de::DeserializeOwned};
use transship_model::Caller;
use utoipa::IntoParams;

use crate::failure::Failure;

/// Names from the path; one that does not follow its grammar names nothing, and is answered with 404 and the grammar.
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let path = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        path.map(|axum::extract::Path(names)| Self(names)).map_err(|rejection| {
            let detail = match &rejection {
                PathRejection::FailedToDeserializePathParams(inner) => match inner.kind() {
                    ErrorKind::Message(message) => message.clone(),
                    kind => kind.to_string(),
                },
                other => other.to_string(),
            };
            Failure::new(404, detail)
        })
    }
}

/// The query string.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(rejection) => {
                // Without axum's own words, which say no more than that it is wrong.
                let cause = rejection.source().map_or_else(|| rejection.body_text(), ToString::to_string);
                Err(Failure::new(400, format!("the query: {cause}")))
            }
        }
    }
}

/// Whom the request comes from. Who lets requests in has found that out.
pub(crate) struct By(pub(crate) Caller);

impl<S: Send + Sync> FromRequestParts<S> for By {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let caller = parts.extensions.get::<Caller>().cloned();
        caller.map(Self).ok_or_else(|| Failure::new(401, "who calls is not known: send a token"))
    }
}

/// Which page of a listing is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Page {
    /// At most so many items, 1 to 1000; 50 by default.
    #[serde(default = "fifty", deserialize_with = "limit")]
    #[param(minimum = 1, maximum = 1000, default = 50)]
    pub(crate) limit: usize,
    /// Where it begins: `next` of the page before.
    #[serde(default, deserialize_with = "cursor")]
    #[param(min_length = 1, max_length = 1024)]
    pub(crate) cursor: Option<String>,
}

/// What no table can begin after is no cursor of ours.
pub(crate) fn cursor<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let cursor = String::deserialize(deserializer)?;
    if (1..=1024).contains(&cursor.len()) {
        return Ok(Some(cursor));
    }
    Err(serde::de::Error::custom("a cursor is the `next` of the page before: 1 to 1024 bytes"))
}

pub(crate) fn fifty() -> usize {
    50
}

pub(crate) fn limit<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let text = String::deserialize(deserializer)?;
    let number = text.parse().ok().filter(|number| (1..=1000).contains(number));
    number.ok_or_else(|| serde::de::Error::custom(format!("a number from 1 to 1000 is needed, not {text:?}")))
}

pub(crate) fn time<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let wrong = |_| serde::de::Error::custom(format!("a time like 2026-03-04T05:06:07Z is needed, not {text:?}"));
    text.parse().map(Some).map_err(wrong)
}

impl Page {
    /// A page of what is in memory, sorted by `name`.
    pub(crate) fn cut<T>(&self, all: impl Iterator<Item = T>, name: impl Fn(&T) -> String) -> (Vec<T>, Option<String>) {
        let mut rest = all.skip_while(|item| self.cursor.as_ref().is_some_and(|cursor| name(item) <= *cursor));
        let items: Vec<T> = rest.by_ref().take(self.limit).collect();
        let next = rest.next().and_then(|_| items.last().map(&name));
        (items, next)
    }
}
