//! Which token services credentials may go to.

use url::{Host, Url};

pub(crate) fn is_docker_hub(host: &str) -> bool {
    matches!(host, "registry-1.docker.io" | "index.docker.io" | "docker.io")
}

/// Whether credentials of the registry may go to a token realm.
pub(super) fn is_trusted(realm: &Url, endpoint: &Url, named: Option<&Url>) -> bool {
    let scheme_is_fine = match realm.scheme() {
        "https" => true,
        "http" => endpoint.scheme() == "http",
        _ => false,
    };
    if !scheme_is_fine || !realm.username().is_empty() || realm.password().is_some() {
        return false;
    }
    if named.is_some_and(|named| named.origin() == realm.origin()) {
        return true;
    }
    match (realm.host(), endpoint.host()) {
        (Some(Host::Domain(realm)), Some(Host::Domain(endpoint))) => {
            realm == endpoint
                || (is_docker_hub(endpoint) && realm == "auth.docker.io")
                || parent(endpoint)
                    .is_some_and(|parent| realm == parent || realm.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.')))
        }
        (realm, endpoint) => realm == endpoint,
    }
}

/// The domain that a registry's host lies in, where that has one owner as far as its form tells: not `com`, not `co.uk`.
fn parent(host: &str) -> Option<&str> {
    let (_, parent) = host.split_once('.')?;
    let labels: Vec<&str> = parent.split('.').collect();
    match labels.as_slice() {
        [] | [_] => None,
        // `co.uk`, `com.cn`, `gov.au`: registrars' second levels are short ones below a country's two letters.
        [second, country] if country.len() == 2 && second.len() <= 3 => None,
        _ => Some(parent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_to_no_realm_by_mere_claim() {
        let trusted = |realm: &str, endpoint: &str, named: Option<&str>| {
            is_trusted(&realm.parse().unwrap(), &endpoint.parse().unwrap(), named.map(|n| n.parse().unwrap()).as_ref())
        };
        let registry = "https://registry.example.com";
        assert!(trusted("https://registry.example.com/token", registry, None));
        assert!(trusted("https://registry.example.com:5001/token", registry, None));
        assert!(trusted("https://auth.example.com/token", registry, None));
        assert!(trusted("https://example.com/jwt/auth", registry, None));
        assert!(trusted("https://auth.docker.io/token", "https://registry-1.docker.io", None));
        assert!(trusted("https://login.other.net/token", registry, Some("https://login.other.net")));
        assert!(trusted("http://localhost:5001/token", "http://localhost:5000", None));
        assert!(trusted("http://127.0.0.1:5001/token", "http://127.0.0.1:5000", None));

        assert!(!trusted("https://evil.net/token", registry, None));
        assert!(!trusted("https://evilexample.com/token", registry, None));
        assert!(!trusted("https://registry.example.com.evil.net/", registry, None));
        assert!(!trusted("http://registry.example.com/token", registry, None));
        assert!(!trusted("http://auth.internal/token", registry, Some("http://auth.internal")));
        assert!(!trusted("https://login.other.net:8443/token", registry, Some("https://login.other.net")));
        assert!(!trusted("https://user:pass@registry.example.com/token", registry, None));
        assert!(!trusted("https://evil.com/token", "https://example.com", None));
        assert!(!trusted("https://evil.co.uk/token", "https://example.co.uk", None));
        assert!(!trusted("https://auth.docker.io/token", registry, None));
        assert!(!trusted("https://127.0.0.2/token", "https://127.0.0.1", None));
        assert!(!trusted("https://1.0.0.1/token", "https://127.0.0.1", None));
        assert!(!trusted("ftp://registry.example.com/token", registry, None));
    }
}
