//! References as people type them.

use transship_model::{Reference, Repository};
use url::Url;

/// A reference that can't be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a reference like registry.example.com/team/app:v1: {problem}")]
pub struct InvalidReference {
    text: String,
    problem: String,
}

/// The API of Docker Hub, whose images are known by the names `docker.io/…`.
const DOCKER_HUB: &str = "https://registry-1.docker.io";

/// Takes a reference apart as Docker does: `alpine` is `docker.io/library/alpine:latest`. In front there may be `http://` or
/// `https://`; without, the loopback is talked to by plain http and everything else is not. A digest wins over a tag.
///
/// # Errors
/// [`InvalidReference`] says what is wrong.
pub fn parse_reference(text: &str) -> Result<(Url, Repository, Reference), InvalidReference> {
    let invalid = |problem: String| InvalidReference { text: text.chars().take(200).collect(), problem };
    let (scheme, name) = match text.split_once("://") {
        Some((scheme @ ("http" | "https"), name)) => (Some(scheme), name),
        Some(_) => return Err(invalid("only http:// and https:// are understood".into())),
        None => (None, text),
    };
    // Docker would ask Docker Hub for a repository of that name.
    if scheme.is_none() && !name.contains('/') && is_host(name) {
        return Err(invalid("it names a registry and no repository: write HOST[:PORT]/REPOSITORY[:TAG]".into()));
    }
    // With a scheme the first part is a host, even one that Docker would take for a part of the path (`http://registry/app`).
    let (host, parsed) = match (scheme, name.split_once('/')) {
        (Some(_), Some((host, path))) => (Some(host), oci_client::Reference::try_from(format!("host.invalid/{path}"))),
        _ => (None, oci_client::Reference::try_from(name)),
    };
    let parsed = parsed.map_err(|error| invalid(error.to_string()))?;
    let host = host.unwrap_or_else(|| parsed.registry());
    let endpoint = match (scheme, host) {
        (_, "docker.io" | "index.docker.io" | "registry-1.docker.io") => DOCKER_HUB.into(),
        (Some(scheme), host) => format!("{scheme}://{host}"),
        (None, host) if is_loopback(host) => format!("http://{host}"),
        (None, host) => format!("https://{host}"),
    };
    let endpoint = Url::parse(&endpoint).map_err(|error| invalid(error.to_string()))?;
    let repository = parsed.repository().parse().map_err(|error: transship_model::InvalidName| invalid(error.to_string()))?;
    let reference = parsed.digest().or(parsed.tag()).unwrap_or("latest");
    let reference = reference.parse().map_err(|error: transship_model::InvalidName| invalid(error.to_string()))?;
    Ok((endpoint, repository, reference))
}

/// Whether a name without a slash can only be meant as a host: `localhost`, or with a dot before what may be a port.
fn is_host(name: &str) -> bool {
    let host = name.split(['@', ':']).next().unwrap_or(name);
    host == "localhost" || host.contains('.')
}

fn is_loopback(host: &str) -> bool {
    Url::parse(&format!("http://{host}")).is_ok_and(|url| transship_model::instance::is_loopback(&url))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_understood_as_docker_does() {
        let digest = transship_model::Digest::of(b"x");
        for (text, endpoint, repository, reference) in [
            ("alpine", "https://registry-1.docker.io/", "library/alpine", "latest"),
            ("alpine:3", "https://registry-1.docker.io/", "library/alpine", "3"),
            ("grafana/loki:3", "https://registry-1.docker.io/", "grafana/loki", "3"),
            ("docker.io/library/alpine", "https://registry-1.docker.io/", "library/alpine", "latest"),
            ("ghcr.io/a/b:c", "https://ghcr.io/", "a/b", "c"),
            ("localhost:5000/a:b", "http://localhost:5000/", "a", "b"),
            ("127.0.0.1:5000/a/b", "http://127.0.0.1:5000/", "a/b", "latest"),
            ("http://registry:5000/a:b", "http://registry:5000/", "a", "b"),
            ("http://registry/a/b", "http://registry/", "a/b", "latest"),
            ("https://localhost:5000/a:b", "https://localhost:5000/", "a", "b"),
            (&format!("ghcr.io/a/b:c@{digest}"), "https://ghcr.io/", "a/b", digest.as_str()),
        ] {
            let parsed = parse_reference(text).unwrap();
            assert_eq!(
                (parsed.0.as_str(), parsed.1.as_str(), parsed.2.to_string().as_str()),
                (endpoint, repository, reference),
                "{text}"
            );
        }
        for bad in ["", "A/b", "ftp://x/a", "http://", "ghcr.io/a:b:c", "a b"] {
            assert!(parse_reference(bad).is_err(), "{bad}");
        }
    }
}
