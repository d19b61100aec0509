//! `WWW-Authenticate`: RFC 9110, section 11.6.1, as registries write it.

use http::{HeaderMap, header::WWW_AUTHENTICATE};

/// How a registry wants to be logged in to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User name and password with each request.
    Basic,
    /// A token that the service at `realm` gives.
    Bearer { realm: String, service: Option<String> },
}

/// The challenge that we answer, if there is one: a token where we have the choice, because a token is worth less to a thief
/// than a password.
pub(crate) fn choose(headers: &HeaderMap) -> Option<Challenge> {
    let mut basic = None;
    for challenge in headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()).flat_map(parse) {
        match challenge {
            Challenge::Bearer { .. } => return Some(challenge),
            Challenge::Basic => basic = Some(Challenge::Basic),
        }
    }
    basic
}

/// One header may hold several challenges, separated by commas like the parameters of each.
fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<(String, Vec<(String, String)>)> = Vec::new();
    for item in items(header) {
        let (head, value) = match item.split_once('=') {
            Some((head, value)) => (head.trim(), Some(unquoted(value.trim()))),
            None => (item.trim(), None),
        };
        // `Bearer realm="…"`: a scheme and its first parameter have a space between them.
        let name = match head.split_once(char::is_whitespace) {
            Some((scheme, name)) => {
                challenges.push((scheme.to_ascii_lowercase(), Vec::new()));
                name.trim()
            }
            None if value.is_none() => {
                challenges.push((head.to_ascii_lowercase(), Vec::new()));
                continue;
            }
            None => head,
        };
        if let (Some((_, parameters)), Some(value)) = (challenges.last_mut(), value) {
            parameters.push((name.to_ascii_lowercase(), value));
        }
    }
    challenges
        .into_iter()
        .filter_map(|(scheme, parameters)| {
            let parameter = |wanted: &str| parameters.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
            match scheme.as_str() {
                "basic" => Some(Challenge::Basic),
                "bearer" => Some(Challenge::Bearer { realm: parameter("realm")?, service: parameter("service") }),
                _ => None,
            }
        })
        .collect()
}

/// Splits at commas that are not inside quotes: a scope is `"repository:a:pull,push"`.
fn items(header: &str) -> Vec<&str> {
    let (mut items, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, byte) in header.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => {
                items.push(&header[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    items.push(&header[start..]);
    items.into_iter().filter(|item| !item.trim().is_empty()).collect()
}

fn unquoted(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"') else { return value.into() };
    let mut text = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(c) = characters.next() {
        match c {
            '"' => break,
            '\\' => text.extend(characters.next()),
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn chosen(values: &[&str]) -> Option<Challenge> {
        let headers = values.iter().map(|v| (WWW_AUTHENTICATE, HeaderValue::from_str(v).unwrap()));
        choose(&headers.collect())
    }

    fn bearer(realm: &str, service: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer { realm: realm.into(), service: service.map(Into::into) })
    }

    #[test]
    fn challenges_are_understood_as_registries_write_them() {
        assert_eq!(
            chosen(&[
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a:pull,push""#
            ]),
            bearer("https://auth.docker.io/token", Some("registry.docker.io"))
        );
        assert_eq!(chosen(&[r#"Basic realm="Registry""#]), Some(Challenge::Basic));
        assert_eq!(chosen(&["basic"]), Some(Challenge::Basic));
        assert_eq!(chosen(&[r#"BEARER Realm = "https://x/t" , error="a, \"b\"""#]), bearer("https://x/t", None));
        assert_eq!(chosen(&[r#"Basic realm="r", Bearer realm="https://x/t",service=s"#]), bearer("https://x/t", Some("s")));
        assert_eq!(chosen(&[r#"Negotiate, Basic realm="r""#]), Some(Challenge::Basic));
        assert_eq!(chosen(&["Basic realm=r", r#"Bearer realm="https://x/t""#]), bearer("https://x/t", None));
        assert_eq!(chosen(&["Bearer"]), None);
        assert_eq!(chosen(&["Digest realm=x", r#"""#, ",,="]), None);
        assert_eq!(chosen(&[]), None);
    }
}
