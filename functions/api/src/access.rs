//! Who is let in: the bearer of the deployment's own token, the bearer of an API token, and whom the surroundings vouch for (this machine
//! where `serve` has no token, an identity that AWS has checked).

use std::sync::Arc;

use axum::{
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use secrecy::SecretString;
use transship_model::{Caller, Problem, SecretRef};
use transship_state::{
    Secrets, TokenRefusal, Tokens,
    secrets::{bearer, is_same},
};

/// The deployment's own token. Its bearer may do everything: with it the other tokens are made.
pub enum Deployment {
    /// There is none.
    None,
    /// This one.
    Token(SecretString),
    /// The one that is kept there. It is read anew each time, so that it can be replaced.
    Kept(Arc<dyn Secrets>, SecretRef),
}

/// What is known of a request by other means than what it says itself.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// The address that it came from.
    pub from: Option<String>,
    /// The ID that it has been given.
    pub request: Option<String>,
    /// Whom it comes from, where that needs no token.
    pub vouched: Option<Caller>,
}

/// Lets requests in.
pub struct Gate {
    deployment: Deployment,
    tokens: Arc<Tokens>,
}

/// What everybody is told who sends a token that is none, whatever is wrong with it.
const WRONG: &str = "a token is missing, or the one that was sent is not known here, has expired or was revoked: send one as `Authorization: Bearer TOKEN`; \
     commands send what TRANSSHIP_TOKEN is set to";
const NOT_THIS_MACHINE: &str = "without a token the API answers this machine only: start serve with TRANSSHIP_TOKEN set, and set it here \
                                too, or make a token on that machine with `transship tokens create`";

impl Gate {
    /// Lets in who has the deployment's token, or one of these.
    pub fn new(deployment: Deployment, tokens: Arc<Tokens>) -> Self {
        Self { deployment, tokens }
    }

    /// Whom a request comes from.
    ///
    /// # Errors
    /// The problem to answer with: 401, the same for every token that is none; 403 where there is neither a token nor one to send; 503 if
    /// it can't be found out.
    pub async fn authenticate(&self, headers: &HeaderMap, origin: &Origin) -> Result<Caller, Problem> {
        let Origin { from, request, vouched } = origin;
        let caller = match (vouched, headers.get(header::AUTHORIZATION)) {
            (Some(caller), _) => caller.clone(),
            (None, None) if matches!(self.deployment, Deployment::None) => return Err(Problem::new(403, NOT_THIS_MACHINE)),
            (None, given) => {
                let given = given.and_then(|value| bearer(value.to_str().ok()?)).unwrap_or_default();
                self.bearer(given).await?.map_err(|(token, why)| {
                    let from = from.as_deref().unwrap_or_default();
                    tracing::info!(from, token, %why, "a caller of the API was not let in");
                    Problem::new(401, WRONG)
                })?
            }
        };
        Ok(Caller { from: from.clone(), request: request.clone(), ..caller })
    }

    /// Whose token this is; if nobody's, its ID and what is wrong with it, for the log.
    async fn bearer(&self, given: &str) -> Result<Result<Caller, (String, TokenRefusal)>, Problem> {
        let unreadable = |what: &str| Problem::new(503, format!("{what} can't be read: try again, and see the log"));
        let mut refused = (String::new(), TokenRefusal::NoToken);
        if let Some(id) = Tokens::id_of(given) {
            let admitted = self.tokens.admit(given, Timestamp::now()).await.map_err(|error| {
                tracing::error!(%error, "the API's tokens");
                unreadable("the API's tokens")
            })?;
            match admitted {
                Ok(token) => {
                    let (role, instances) = (token.role, token.instances);
                    let name = format!("token:{}", token.id);
                    return Ok(Ok(Caller { name, role, instances, from: None, request: None }));
                }
                Err(why) => refused = (id.to_string(), why),
            }
        }
        let own = match &self.deployment {
            Deployment::None => None,
            Deployment::Token(token) => Some(token.clone()),
            Deployment::Kept(secrets, reference) => Some(secrets.read(reference).await.map_err(|error| {
                tracing::error!(%error, "the API's token");
                unreadable("the API's token")
            })?),
        };
        if own.is_some_and(|own| is_same(given, &own)) {
            return Ok(Ok(Caller::all_powerful("deployment")));
        }
        Ok(Err(refused))
    }
}

/// A problem as a response. [`crate::Guarded`] writes the request's ID into it.
pub fn refuse(problem: &Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, [(header::CONTENT_TYPE, Problem::MEDIA_TYPE)], problem.to_json()).into_response();
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    }
    response.extensions_mut().insert(problem.clone());
    response
}
