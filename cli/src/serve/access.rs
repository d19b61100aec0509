//! Who may call the API of `serve`: the bearer of its token, or, without one, this machine.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::Response,
};
use secrecy::SecretString;
use transship_api::access::{admit, all_powerful, refuse};
use transship_model::{Caller, Problem};

/// Lets a request pass, or answers 401 or 403.
pub(crate) async fn guard(
    State(token): State<Arc<Option<SecretString>>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    match decide(token.as_ref().as_ref(), peer, request.headers()) {
        Ok(caller) => {
            request.extensions_mut().insert(Caller { from: Some(peer.ip().to_string()), ..caller });
            next.run(request).await
        }
        Err(problem) => refuse(&problem),
    }
}

fn decide(token: Option<&SecretString>, peer: SocketAddr, headers: &HeaderMap) -> Result<Caller, Problem> {
    if let Some(token) = token {
        return admit(token, headers);
    }
    // A proxy on this machine speaks for others, and so does a page in a browser on it.
    let speaks_for_others = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via", "origin"];
    let is_own = peer.ip().to_canonical().is_loopback() && !speaks_for_others.iter().any(|name| headers.contains_key(*name));
    if is_own && names_this_machine(headers) {
        return Ok(all_powerful("this machine"));
    }
    Err(Problem::new(
        403,
        "without a token the API answers this machine only: start serve with TRANSSHIP_TOKEN set, and set it here too",
    ))
}

/// A name that somebody else has pointed at this machine is not ours (DNS rebinding).
fn names_this_machine(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let name = if host.starts_with('[') {
        host.split(']').next().map_or(host, |h| &h[1..])
    } else {
        host.split(':').next().unwrap_or(host)
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(token: Option<&str>, peer: &str, headers: &[(&'static str, &str)]) -> u16 {
        let token = token.map(SecretString::from);
        let pairs = headers.iter().map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap()));
        decide(token.as_ref(), peer.parse().unwrap(), &pairs.collect()).map_or_else(|problem| problem.status, |_| 200)
    }

    #[test]
    fn without_a_token_only_this_machine_is_answered() {
        assert_eq!(status(None, "127.0.0.1:9", &[("host", "127.0.0.1:8080")]), 200);
        assert_eq!(status(None, "[::1]:9", &[("host", "[::1]:8080")]), 200);
        assert_eq!(status(None, "[::ffff:127.0.0.1]:9", &[("host", "localhost")]), 200);
        assert_eq!(status(None, "192.0.2.1:9", &[("host", "127.0.0.1:8080")]), 403);
        assert_eq!(status(None, "127.0.0.1:9", &[("host", "evil.example:8080")]), 403);
        assert_eq!(status(None, "127.0.0.1:9", &[("host", "localhost"), ("x-forwarded-for", "192.0.2.1")]), 403);
        assert_eq!(status(None, "127.0.0.1:9", &[("host", "localhost"), ("origin", "https://evil.example")]), 403);
    }

    #[test]
    fn a_token_is_asked_of_everybody() {
        assert_eq!(status(Some("t"), "127.0.0.1:9", &[("host", "localhost")]), 401);
        assert_eq!(status(Some("t"), "192.0.2.1:9", &[("authorization", "Bearer t")]), 200);
        assert_eq!(status(Some("t"), "192.0.2.1:9", &[("authorization", "Bearer u")]), 401);
    }
}
