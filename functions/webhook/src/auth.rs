//! Who sends a notification: the instance is known by the path, and proven by its secret.

use http::{header, request::Parts};
use percent_encoding::percent_decode_str;
use secrecy::SecretString;
use transship_model::{InstanceName, Problem, WebhookAuth};
use transship_state::{
    Secrets, Snapshot,
    secrets::{bearer, is_same},
};

/// The instance that a request below `/hooks/` comes from.
///
/// The secret is the value of `Authorization`, with or without the scheme `Bearer` (Harbor sends what was typed in its policy),
/// or the path's last segment for senders that can set no header. An unknown instance, a missing and a wrong secret are
/// answered alike, so that nobody learns which instances there are.
///
/// # Errors
/// 401.
pub(crate) async fn authenticate(request: &Parts, catalog: &Snapshot, secrets: &dyn Secrets) -> Result<InstanceName, Problem> {
    let path = request.uri.path().strip_prefix("/hooks/").unwrap_or_default();
    let (name, in_path) = path.split_once('/').unwrap_or((path, ""));
    // A secret may have characters that a path has not.
    let in_path = Some(percent_decode_str(in_path).decode_utf8_lossy()).filter(|secret| !secret.is_empty());
    let given = in_path.or_else(|| {
        let value = request.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        Some(bearer(value).unwrap_or(value).into())
    });

    let instance = name.parse().ok().and_then(|name: InstanceName| catalog.instance(&name));
    let expected = match instance.map(|instance| &instance.webhook) {
        Some(WebhookAuth::Open) => return instance.map(|instance| instance.name.clone()).ok_or_else(refused),
        Some(WebhookAuth::Secret(reference)) => secrets
            .read(reference)
            .await
            .inspect_err(|error| tracing::error!(instance = name, %error, "notifications are refused"))
            .ok(),
        Some(WebhookAuth::Closed) | None => None,
    };
    // An instance that is not there costs the comparison as well.
    let (expected, known) = expected.map_or_else(|| (SecretString::default(), false), |secret| (secret, true));
    let equal = is_same(&given.unwrap_or_default(), &expected);
    match instance {
        Some(instance) if known && equal => Ok(instance.name.clone()),
        _ => Err(refused()),
    }
}

fn refused() -> Problem {
    Problem::new(401, "there is no such instance, or the secret is not its webhook secret")
}
