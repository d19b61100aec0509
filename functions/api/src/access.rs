//! Who may call the API: the bearer of its token.

use axum::{
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use secrecy::SecretString;
use transship_model::{Caller, Problem, Role};
use transship_state::secrets::{bearer, is_same};

/// The caller whom the deployment's own token stands for, if a request bears it.
///
/// # Errors
/// The problem to answer with: 401.
pub fn admit(token: &SecretString, headers: &HeaderMap) -> Result<Caller, Problem> {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.to_str().ok()?));
    if is_same(given.unwrap_or_default(), token) {
        return Ok(all_powerful("deployment"));
    }
    Err(Problem::new(401, "the API wants the token that it was started with: set TRANSSHIP_TOKEN"))
}

/// Who may do everything: the bearer of the deployment's own token, and this machine where `serve` has none.
pub fn all_powerful(name: &str) -> Caller {
    Caller { name: name.to_owned(), role: Role::Admin, instances: None, from: None }
}

/// A problem as a response.
pub fn refuse(problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, [(header::CONTENT_TYPE, Problem::MEDIA_TYPE)], problem.to_json()).into_response();
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    }
    response
}
