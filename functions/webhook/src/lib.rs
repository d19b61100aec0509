//! **webhook**: a registry's notification becomes jobs.
//!
//! *Triggered by* `POST /hooks/{instance}`, sent by a registry after a push. *Reads* the catalogue and, for tags that rules
//! write, where their content came from. *Writes* a job for each rule that the push meets, then the event that puts it in the
//! rule's log. *When it fails* it has answered 503, and the registry sends the notification again: task IDs derive from the
//! event, so that nothing is done twice. It talks to no registry, so its answer takes milliseconds, whatever they are doing.

mod auth;
pub mod senders;

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header, request::Parts};
use jiff::Timestamp;
use serde::Serialize;
use transship_model::{InstanceName, Problem, PushEvent, TaskId};
use transship_state::{Catalog, Dispatched, Dispatcher, Secrets, Snapshot, StateError};

use crate::senders::Notification;

/// The largest notification that is read, in bytes.
pub const MAX_BODY: usize = 4 << 20;

/// The handler of notifications.
pub struct Webhook {
    catalog: Arc<Catalog>,
    dispatcher: Dispatcher,
    secrets: Arc<dyn Secrets>,
}

/// A request that comes from an instance, and the catalogue as it was when that was seen.
pub struct Admitted {
    head: Parts,
    instance: InstanceName,
    catalog: Arc<Snapshot>,
}

/// The answer to a notification that was understood.
#[derive(Debug, Clone, Default, Serialize)]
struct Accepted {
    /// The tasks that it triggered.
    tasks: Vec<TaskId>,
    /// Workers will look at it, and there may be more tasks.
    pending: bool,
}

impl Webhook {
    /// A handler over these stores.
    pub fn new(catalog: Arc<Catalog>, dispatcher: Dispatcher, secrets: Arc<dyn Secrets>) -> Self {
        Self { catalog, dispatcher, secrets }
    }

    /// Whether a request comes from an instance that it names, judged by its head alone: who reads bodies from the network asks
    /// this first.
    ///
    /// # Errors
    /// The problem to answer with.
    pub async fn admit(&self, head: Parts) -> Result<Admitted, Problem> {
        if head.method != Method::POST {
            return Err(Problem::new(405, "notifications are sent with POST"));
        }
        let catalog = self.catalog.snapshot().await.map_err(unavailable)?;
        let instance = auth::authenticate(&head, &catalog, self.secrets.as_ref()).await?;
        Ok(Admitted { head, instance, catalog })
    }

    /// Takes in a message of the inbox. None is understood yet: each comes again, and ends among the dead letters.
    ///
    /// # Errors
    /// See [`StateError`]: the message is to come again.
    pub async fn take_in(&self, _body: &str) -> Result<(), StateError> {
        Err(StateError::Corrupt { what: "a message of the inbox".into(), why: "it is not understood yet".into() })
    }

    /// Answers a request below `/hooks/` whose body is here already.
    pub async fn handle(&self, request: Request<Bytes>) -> Response<Bytes> {
        let (head, body) = request.into_parts();
        match self.admit(head).await {
            Ok(admitted) => self.answer(admitted, body).await,
            Err(problem) => refuse(&problem),
        }
    }

    /// Answers a request that has been admitted: 202 where something was pushed, 200 where the notification tells of something
    /// else.
    pub async fn answer(&self, admitted: Admitted, body: Bytes) -> Response<Bytes> {
        match self.accept(admitted, body).await {
            Ok(None) => answer(StatusCode::OK, &Accepted::default()),
            Ok(Some(accepted)) => answer(StatusCode::ACCEPTED, &accepted),
            Err(problem) => refuse(&problem),
        }
    }

    async fn accept(&self, admitted: Admitted, body: Bytes) -> Result<Option<Accepted>, Problem> {
        let received = Timestamp::now();
        let Admitted { head, instance, catalog } = admitted;
        if body.len() > MAX_BODY {
            return Err(too_large());
        }

        let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let pushes = match senders::read(content_type, &body) {
            Ok(Notification::Pushes(pushes)) => pushes,
            Ok(Notification::Nothing) => return Ok(None),
            Err(unreadable) => return Err(Problem::new(400, unreadable.to_string())),
        };

        let mut accepted = Accepted::default();
        let delivery = fastrand::u64(..);
        for (at, push) in pushes.into_iter().enumerate() {
            let senders::Push { repository, tag, digest, id, time } = push;
            let event = PushEvent { instance: instance.clone(), repository, tag, digest, id, time, received };
            let nonce = format!("{received} {delivery:016x} {at}");
            let Dispatched { tasks, pending } =
                self.dispatcher.dispatch(&catalog, &event, &nonce).await.map_err(unavailable)?;
            tracing::info!(
                instance = %event.instance, repository = %event.repository, tag = ?event.tag, digest = ?event.digest,
                tasks = tasks.len(), pending, "push"
            );
            accepted.tasks.extend(tasks);
            accepted.pending |= pending;
        }
        Ok(Some(accepted))
    }
}

/// The problem with a body over [`MAX_BODY`]; who reads bodies from the network answers with it before it has read all.
pub fn too_large() -> Problem {
    Problem::new(413, format!("the notification is larger than {} MiB", MAX_BODY >> 20))
}

/// A problem as a response. It is told to the operator as well, who is the one to mend a secret; without the path, which may
/// hold one.
pub fn refuse(problem: &Problem) -> Response<Bytes> {
    tracing::warn!(status = problem.status, detail = problem.detail, "a notification was refused");
    let mut response = Response::new(Bytes::from(problem.to_json()));
    *response.status_mut() = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(Problem::MEDIA_TYPE));
    match problem.status {
        401 => headers.insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer")),
        405 => headers.insert(header::ALLOW, header::HeaderValue::from_static("POST")),
        503 => headers.insert(header::RETRY_AFTER, header::HeaderValue::from_static("1")),
        _ => None,
    };
    response
}

fn answer(status: StatusCode, accepted: &Accepted) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(serde_json::to_vec(accepted).unwrap_or_default()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

fn unavailable(error: transship_state::StateError) -> Problem {
    tracing::error!(%error, "a notification could not be stored");
    Problem::new(503, "the notification could not be stored: send it again")
}
