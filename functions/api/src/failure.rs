//! What is answered instead of what was asked for.

use axum::{
    body::Body,
    http::Response,
    response::{IntoResponse, Response as Answer},
};
use transship_model::{Caller, InstanceName, Mistake, Notify, Problem, Role};
use transship_state::{Entry, Stamp, StateError, written::WriteError};

use crate::access;

/// A problem document as a response.
pub(crate) struct Failure(pub(crate) Problem);

impl Failure {
    pub(crate) fn new(status: u16, detail: impl Into<String>) -> Self {
        Self(Problem::new(status, detail))
    }

    /// 422: what is wrong with the value of a key; `key` is its JSON pointer without the first slash.
    pub(crate) fn mistake(key: &str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let mistake = Mistake { pointer: format!("#/{key}"), detail: detail.clone() };
        Self(Problem { errors: vec![mistake], ..Problem::new(422, format!("{}: {detail}", key.replace('/', ": "))) })
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Answer {
        let response: Response<Body> = access::refuse(&self.0);
        response
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        tracing::error!(%error, "a request to the API failed");
        Self(match error {
            StateError::Unavailable(_) | StateError::Contended(_) => Problem::new(503, "the store does not answer: try again"),
            StateError::Corrupt { .. } => Problem::new(500, "the store holds something that can't be read: see the log"),
        })
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::State(error) => error.into(),
            WriteError::Store(error) => {
                tracing::error!(%error, "a secret that was given to the API");
                Self::new(503, "the secret can't be kept, and nothing was changed: see the log, and try again")
            }
        }
    }
}

/// Refuses a change of what belongs to a configuration file.
pub(crate) fn changeable(stamp: Option<&Stamp>, entry: &Entry) -> Result<(), Failure> {
    match stamp.and_then(Stamp::file) {
        None => Ok(()),
        Some(file) => {
            let detail = format!(
                "{entry} belongs to the configuration file {file}: change it there, and start `transship serve` again; \
                     or, to change it here from now on, start that once with --adopt and without --config"
            );
            Err(Failure::new(409, detail))
        }
    }
}

/// Refuses what a caller may not do with an instance. Whether an instance that is not theirs exists is not told.
pub(crate) fn permit(caller: &Caller, role: Role, instance: &InstanceName) -> Result<(), Failure> {
    if !caller.sees(instance) {
        return Err(no_instance(instance));
    }
    if caller.may_with(role, instance) {
        return Ok(());
    }
    Err(Failure::new(403, format!("this needs the role {role} for instance {instance}; yours is {}", caller.role)))
}

/// Refuses what a caller may not do with a rule: it takes the role for both its ends. Whoever may see the source knows of the target.
pub(crate) fn permit_between(caller: &Caller, role: Role, source: &InstanceName, target: &InstanceName) -> Result<(), Failure> {
    permit(caller, role, source)?;
    if caller.may_with(role, target) {
        return Ok(());
    }
    let detail = format!("this needs the role {role} for the target instance, too: {target} is none of yours");
    Err(Failure::new(403, detail))
}

/// Refuses what needs a role for the whole deployment.
pub(crate) fn permit_all(caller: &Caller, role: Role) -> Result<(), Failure> {
    if caller.may(role) {
        return Ok(());
    }
    let whole = if caller.instances.is_some() { " for all instances" } else { "" };
    Err(Failure::new(403, format!("this needs the role {role}{whole}; yours is {}", caller.role)))
}

/// Refuses a receiver in a private network that no admin of the whole deployment has named: what answers there is not the caller's alone.
pub(crate) fn permit_receiver(caller: &Caller, before: Option<&Notify>, wanted: &Notify) -> Result<(), Failure> {
    let is_known = before.is_some_and(|before| before.private_network && before.url == wanted.url);
    if !wanted.private_network || is_known {
        return Ok(());
    }
    permit_all(caller, Role::Admin)
        .map_err(|Failure(problem)| Failure::new(problem.status, format!("'private_network': {}", problem.detail)))
}

/// An instance that is not there, or not for this caller.
pub(crate) fn no_instance(name: &InstanceName) -> Failure {
    Failure::new(404, format!("there is no instance {name}: GET /v1/instances lists them"))
}
