//! Whom `serve` vouches for where it has no token: this machine.

use std::net::SocketAddr;

use axum::http::{HeaderMap, header};
use transship_api::access::Origin;
use transship_model::Caller;

/// What is known of a request. Where there is no token for it, who is on this machine may do everything; but who sends a token is whom
/// it stands for.
pub(crate) fn origin(has_token: bool, peer: SocketAddr, headers: &HeaderMap) -> Origin {
    let is_vouched = !has_token && !headers.contains_key(header::AUTHORIZATION) && is_of_this_machine(peer, headers);
    let vouched = is_vouched.then(|| Caller::all_powerful("this machine"));
    Origin { from: Some(peer.ip().to_canonical().to_string()), request: None, vouched }
}

fn is_of_this_machine(peer: SocketAddr, headers: &HeaderMap) -> bool {
    // A proxy on this machine speaks for others, and so does a page in a browser on it.
    let speaks_for_others = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via", "origin"];
    let is_own = peer.ip().to_canonical().is_loopback() && !speaks_for_others.iter().any(|name| headers.contains_key(*name));
    is_own && names_this_machine(headers)
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

    fn is_vouched(has_token: bool, peer: &str, headers: &[(&'static str, &str)]) -> bool {
        let pairs = headers.iter().map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap()));
        origin(has_token, peer.parse().unwrap(), &pairs.collect()).vouched.is_some()
    }

    /// Would break: an API that is open to whoever can reach a proxy, a browser or a name server of this machine.
    #[test]
    fn without_a_token_only_this_machine_is_vouched_for() {
        assert!(is_vouched(false, "127.0.0.1:9", &[("host", "127.0.0.1:8080")]));
        assert!(is_vouched(false, "[::1]:9", &[("host", "[::1]:8080")]));
        assert!(is_vouched(false, "[::ffff:127.0.0.1]:9", &[("host", "localhost")]));
        assert!(!is_vouched(false, "192.0.2.1:9", &[("host", "127.0.0.1:8080")]));
        assert!(!is_vouched(false, "127.0.0.1:9", &[("host", "evil.example:8080")]));
        assert!(!is_vouched(false, "127.0.0.1:9", &[("host", "localhost"), ("x-forwarded-for", "192.0.2.1")]));
        assert!(!is_vouched(false, "127.0.0.1:9", &[("host", "localhost"), ("origin", "https://evil.example")]));
    }

    /// Would break: a token that is ignored where it comes from this machine, so that a revoked one lets its bearer do everything.
    #[test]
    fn who_sends_a_token_and_who_has_to_is_not_vouched_for() {
        assert!(!is_vouched(true, "127.0.0.1:9", &[("host", "localhost")]));
        assert!(!is_vouched(false, "127.0.0.1:9", &[("host", "localhost"), ("authorization", "Bearer t")]));
    }
}
