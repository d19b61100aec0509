//! Who sends a notification: the instance is known by the path, and proven as its `webhook_secret` or `webhook_auth` says.
//!
//! | the instance has | what proves a notification |
//! |---|---|
//! | `webhook_secret`, and the sender signs the body | each signature that is there (see [`signature`]) |
//! | `webhook_secret`, and the path goes on behind the instance | the secret in the path: Docker Hub, Quay, Event Grid, Alibaba |
//! | `webhook_secret` otherwise | the secret in `Authorization`, bare, as `Bearer` or as the password of `Basic`, or bare in `X-Webhook-Secret` |
//! | `webhook_auth: { google: … }` | Google's identity token in `Authorization` (see [`google`]) |
//! | `webhook_auth: none` | nothing |
//!
//! The first line that fits decides, and nothing makes good for what fails there: whoever has read a path in somebody's log can't
//! send a body with a wrong signature. Which sender it is does not matter, because that is known by the body, which is not to be
//! looked into before. An unknown instance, a missing proof and a wrong one are answered alike, so that nobody learns which
//! instances there are.

pub(crate) mod google;
mod signature;

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use http::{HeaderMap, header, request::Parts};
use percent_encoding::percent_decode_str;
use secrecy::SecretString;
use transship_model::{Instance, InstanceName, Problem, WebhookAuth};
use transship_state::{
    Secrets, Snapshot,
    secrets::{bearer, is_same},
};

use self::{
    google::{Google, Untrusted},
    signature::Signature,
};

/// How far a request has been proven.
#[derive(Debug, Clone)]
pub(crate) enum Proof {
    /// It comes from this instance.
    Given(Arc<Instance>),
    /// Its signatures will tell, when the body is there.
    Awaited,
}

/// What notifications are proven with.
pub(crate) struct Gate {
    pub(crate) secrets: Arc<dyn Secrets>,
    pub(crate) google: Google,
}

impl Gate {
    /// Whether a request below `/hooks/` comes from the instance that its path names. Without the body, signatures are awaited.
    ///
    /// # Errors
    /// 401, or 503 where what proves it is out of reach.
    pub(crate) async fn prove(&self, head: &Parts, body: Option<&[u8]>, catalog: &Snapshot) -> Result<Proof, Problem> {
        let path = head.uri.path().strip_prefix("/hooks/").unwrap_or_default();
        let (name, in_path) = path.split_once('/').unwrap_or((path, ""));
        let instance = name.parse().ok().and_then(|name: InstanceName| catalog.instance(&name)).cloned();
        let expected = match instance.as_ref().map(|instance| (instance, &instance.webhook)) {
            Some((instance, WebhookAuth::Open)) => return Ok(Proof::Given(instance.clone())),
            Some((instance, WebhookAuth::Google(identity))) => {
                let token = authorization(&head.headers).and_then(bearer).ok_or_else(refused)?;
                return match self.google.check(token, identity).await {
                    Ok(()) => Ok(Proof::Given(instance.clone())),
                    Err(Untrusted::Refused(why)) => {
                        tracing::warn!(instance = name, why, "an identity token was refused");
                        Err(refused())
                    }
                    Err(Untrusted::Unavailable(why)) => {
                        tracing::error!(instance = name, why, "Google's keys");
                        Err(Problem::new(503, "the keys that the identity token is checked with can't be had: send it again"))
                    }
                };
            }
            // Not 401: nobody can know whether it would have been right, and many senders send a 503 again, and a 401 never.
            Some((_, WebhookAuth::Secret(reference))) => Some(self.secrets.read(reference).await.map_err(|error| {
                tracing::error!(instance = name, %error, "notifications can't be proven");
                Problem::new(503, "what proves this instance's notifications can't be read: send it again")
            })?),
            Some((_, WebhookAuth::Closed)) | None => None,
        };
        // An instance that is not there costs the comparison as well.
        let known = expected.is_some();
        let secret = expected.unwrap_or_default();
        let signatures = Signature::all(&head.headers);
        let holds = match body {
            None if !signatures.is_empty() => return Ok(Proof::Awaited),
            Some(body) if !signatures.is_empty() => {
                signatures.iter().fold(true, |holds, signature| signature.is_of(body, &secret) & holds)
            }
            _ if !in_path.is_empty() => {
                // A secret may have characters that a path has not.
                is_same(&percent_decode_str(in_path).decode_utf8_lossy(), &secret)
            }
            _ => is_in(&head.headers, &secret),
        };
        match instance {
            Some(instance) if known && holds => Ok(Proof::Given(instance)),
            Some(instance) => {
                tracing::warn!(instance = %instance.name, "a notification that is not proven");
                Err(refused())
            }
            None => Err(refused()),
        }
    }
}

/// The header that has the secret and nothing else.
const WEBHOOK_SECRET: &str = "x-webhook-secret";

fn authorization(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()
}

/// Whether the header `Authorization` tells a secret: as it is (Harbor and GitLab send what was typed), as a token of the scheme
/// `Bearer`, or as the password of the scheme `Basic` (RFC 7617); or whether `X-Webhook-Secret` does, which senders of CloudEvents set
/// that have no other authentication.
fn is_in(headers: &HeaderMap, secret: &SecretString) -> bool {
    let value = authorization(headers).unwrap_or_default();
    let token = bearer(value).unwrap_or(value);
    let alone = headers.get(WEBHOOK_SECRET).and_then(|value| value.to_str().ok()).unwrap_or_default();
    is_same(token, secret) | is_same(&password(value).unwrap_or_default(), secret) | is_same(alone, secret)
}

fn password(authorization: &str) -> Option<String> {
    let (scheme, credentials) = authorization.split_once(' ')?;
    let credentials = scheme.eq_ignore_ascii_case("basic").then(|| BASE64.decode(credentials.trim()).ok())??;
    let credentials = String::from_utf8(credentials).ok()?;
    credentials.split_once(':').map(|(_, password)| password.to_owned())
}

fn refused() -> Problem {
    Problem::new(401, "there is no such instance, or what proves its notifications is missing or wrong")
}
