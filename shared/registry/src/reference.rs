//! References as people type them.

use transship_model::{InvalidName, Reference, Repository, Tag};
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
    // By hand: oci-client's `Reference` compiles an expression first, which takes 40 ms, longer than many a round trip.
    let (name, digest) = name.split_once('@').map_or((name, None), |(name, digest)| (name, Some(digest)));
    let (name, tag) = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (name, None),
    };
    // With a scheme the first part is a host, even one that Docker would take for a part of the path (`http://registry/app`).
    let (host, path) = match name.split_once('/') {
        Some((host, path)) if scheme.is_some() || host == "localhost" || host.contains(['.', ':']) => (host, path.to_owned()),
        _ if scheme.is_some() => return Err(invalid("it names no repository".into())),
        _ => ("docker.io", name.to_owned()),
    };
    if host.is_empty() || !host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_:[]".contains(c)) {
        return Err(invalid(format!("{host:?} is no host")));
    }
    let of_docker_hub = scheme.is_none() && matches!(host, "docker.io" | "index.docker.io");
    let path = if of_docker_hub && !path.contains('/') { format!("library/{path}") } else { path };
    let endpoint = match (scheme, host) {
        (_, "docker.io" | "index.docker.io" | "registry-1.docker.io") => DOCKER_HUB.into(),
        (Some(scheme), host) => format!("{scheme}://{host}"),
        (None, host) if is_loopback(host) => format!("http://{host}"),
        (None, host) => format!("https://{host}"),
    };
    let endpoint = Url::parse(&endpoint).map_err(|error| invalid(error.to_string()))?;
    let name_error = |error: InvalidName| invalid(error.to_string());
    let repository = path.parse().map_err(name_error)?;
    let tag = tag.map(str::parse::<Tag>).transpose().map_err(name_error)?;
    let reference = match (digest.map(str::parse).transpose().map_err(name_error)?, tag) {
        (Some(digest), _) => Reference::Digest(digest),
        (None, Some(tag)) => Reference::Tag(tag),
        (None, None) => Reference::Tag("latest".parse().map_err(name_error)?),
    };
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
            ("localhost/a", "http://localhost/", "a", "latest"),
            ("index.docker.io/alpine", "https://registry-1.docker.io/", "library/alpine", "latest"),
            ("[::1]:5000/a:b", "http://[::1]:5000/", "a", "b"),
            (&format!("alpine@{digest}"), "https://registry-1.docker.io/", "library/alpine", digest.as_str()),
            (&format!("ghcr.io/a/b:c@{digest}"), "https://ghcr.io/", "a/b", digest.as_str()),
        ] {
            let parsed = parse_reference(text).unwrap();
            assert_eq!(
                (parsed.0.as_str(), parsed.1.as_str(), parsed.2.to_string().as_str()),
                (endpoint, repository, reference),
                "{text}"
            );
        }
        for bad in [
            "",
            "A/b",
            "ftp://x/a",
            "http://",
            "http://a",
            "ghcr.io/a:b:c",
            "a b",
            "ghcr.io/",
            "ghcr.io/a@b",
            "ghcr.io/a:",
            "ghcr.io/a:b/",
            "user:pass@ghcr.io/a",
            "http://user:pass@ghcr.io/a",
            "http://ghcr.io?x/a",
            "gh#cr.io/a",
            "ghcr.io/a/../b",
        ] {
            assert!(parse_reference(bad).is_err(), "{bad}");
        }
    }
}
