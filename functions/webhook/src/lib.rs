//! **webhook**: a registry's notification becomes jobs.
//!
//! *Triggered by* `POST /hooks/{instance}`, sent by a registry after a push, and by messages of the inbox: what EventBridge tells of
//! Amazon ECR, and schedules. *Reads* the catalogue and, for tags that rules write, where their content came from, both in one call.
//! *Writes* a job for each rule that the push meets and, at the same time, what is to be remembered of the push; then the event that
//! puts it in the rule's log; for a tick, a job for each rule whose scheduled time has come. *When it fails* it has answered
//! 503, and the registry sends the notification again; a message of the inbox is delivered again. Task IDs derive from the event, so
//! that nothing is done twice. It talks to no registry, so its answer takes milliseconds, whatever they are doing.

mod auth;
pub mod senders;

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use transship_model::{InstanceName, Problem, PushEvent, TaskId};
use transship_state::{Catalog, Delivery, Dispatched, Dispatcher, Scheduler, Secrets, Snapshot, StateError};

use crate::{
    auth::{Gate, Proof, google::Google},
    senders::{Message, Notification, Push},
};

/// The largest notification that is read, in bytes.
pub const MAX_BODY: usize = 4 << 20;

/// So many pushes of one notification are dispatched at once: they need one call of each store, and fit one.
const AT_ONCE: usize = 50;

/// The handler of notifications.
pub struct Webhook {
    catalog: Arc<Catalog>,
    dispatcher: Dispatcher,
    scheduler: Arc<Scheduler>,
    gate: Gate,
}

/// A request that comes from an instance, as far as its head can prove that: its body may have to be signed.
pub struct Admitted {
    head: Parts,
    proof: Proof,
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

/// What is answered.
enum Answer {
    /// Something was pushed.
    Accepted(Accepted),
    /// Something else happened.
    Nothing,
    /// The code that Event Grid waits for.
    Validation(String),
    /// The origin, as it names itself, may send notifications: CloudEvents, HTTP webhooks, section 4.2.
    Welcome(HeaderValue),
}

impl Webhook {
    /// A handler over these stores.
    pub fn new(catalog: Arc<Catalog>, dispatcher: Dispatcher, scheduler: Arc<Scheduler>, secrets: Arc<dyn Secrets>) -> Self {
        Self { catalog, dispatcher, scheduler, gate: Gate { secrets, google: Google::default() } }
    }

    /// Whether a request comes from an instance that it names, judged by its head alone: who reads bodies from the network asks
    /// this first.
    ///
    /// # Errors
    /// The problem to answer with.
    pub async fn admit(&self, head: Parts) -> Result<Admitted, Problem> {
        if head.method != Method::POST && !(head.method == Method::OPTIONS && head.headers.contains_key(REQUEST_ORIGIN)) {
            return Err(Problem::new(405, "notifications are sent with POST"));
        }
        let (catalog, proof) = self.prove(&head, None).await?;
        Ok(Admitted { head, proof, catalog })
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
            Ok(Answer::Accepted(accepted)) => answer(StatusCode::ACCEPTED, &accepted),
            Ok(Answer::Nothing) => answer(StatusCode::OK, &Accepted::default()),
            Ok(Answer::Validation(code)) => answer(StatusCode::OK, &json!({ "validationResponse": code })),
            Ok(Answer::Welcome(origin)) => {
                let mut response = answer(StatusCode::OK, &json!({}));
                response.headers_mut().insert("webhook-allowed-origin", origin);
                response.headers_mut().insert("webhook-allowed-rate", HeaderValue::from_static("*"));
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST, OPTIONS"));
                response
            }
            Err(problem) => refuse(&problem),
        }
    }

    /// Takes in a message of the inbox. What can't be read, or is of no instance that is known, is told to the operator and dropped:
    /// it would be the same the next time.
    ///
    /// # Errors
    /// See [`StateError`]: the message is to be delivered again.
    pub async fn take_in(&self, body: &str) -> Result<(), StateError> {
        let received = Timestamp::now();
        let (origin, pushes) = match Message::read(body) {
            Ok(Message::Pushes(origin, pushes)) => (origin, pushes),
            Ok(Message::Deletions(origin, deleted)) => {
                let catalog = self.catalog.snapshot().await?;
                for instance in catalog.instances().filter(|instance| origin.is_of(instance)) {
                    self.delete(&catalog, &instance.name, deleted.clone(), received).await?;
                }
                return Ok(());
            }
            Ok(Message::Sweep) => return self.dispatcher.sweep().await,
            Ok(Message::Tick) => return self.scheduler.tick(received).await.map(drop),
            Ok(Message::Nothing) => return Ok(()),
            Err(error) => {
                tracing::error!(%error, body, "a message of the inbox can't be read");
                return Ok(());
            }
        };
        let deliveries = |catalog: &Snapshot| -> Vec<Delivery> {
            let instances = catalog.instances().filter(|instance| origin.is_of(instance));
            instances.flat_map(|instance| deliveries(&instance.name, pushes.clone(), received)).collect()
        };
        let remembered = |catalog: &Snapshot| remembered(catalog, &deliveries(catalog));
        let (catalog, recalled) = self.catalog.recall(remembered).await?;
        let deliveries = deliveries(&catalog);
        if deliveries.is_empty() {
            tracing::info!(account = origin.account, region = origin.region, "a push to no instance of kind ecr that is known");
        }
        let dispatched = self.dispatcher.dispatch_all(&catalog, &deliveries, recalled).await?;
        tell(&deliveries, &dispatched);
        Ok(())
    }

    /// Has what was deleted deleted at the targets of rules that say so.
    async fn delete(
        &self,
        catalog: &Snapshot,
        instance: &InstanceName,
        deleted: Vec<Push>,
        received: Timestamp,
    ) -> Result<Vec<TaskId>, StateError> {
        let mut tasks = Vec::new();
        for Delivery { event, nonce } in deliveries(instance, deleted, received) {
            let dispatched = self.dispatcher.dispatch_deletion(catalog, &event, &nonce).await?;
            let (repository, tag) = (&event.repository, event.tag.as_ref().map(tracing::field::display));
            let (ids, rules) = named(&dispatched.tasks);
            tracing::info!(%instance, %repository, tag, tasks = ids, rules, "deletion");
            tasks.extend(dispatched.tasks);
        }
        Ok(tasks)
    }

    /// The catalogue and what it has proven. It is judged by the catalogue that is at hand, so that it costs no call; who is refused by
    /// that is judged by the one of this moment.
    async fn prove(&self, head: &Parts, body: Option<&[u8]>) -> Result<(Arc<Snapshot>, Proof), Problem> {
        let last = self.catalog.last();
        let problem = match self.gate.prove(head, body, &last).await {
            Ok(proof) => return Ok((last, proof)),
            Err(problem) => problem,
        };
        let catalog = self.catalog.snapshot().await.map_err(unavailable)?;
        if Arc::ptr_eq(&catalog, &last) {
            return Err(problem);
        }
        let proof = self.gate.prove(head, body, &catalog).await?;
        Ok((catalog, proof))
    }

    async fn accept(&self, admitted: Admitted, body: Bytes) -> Result<Answer, Problem> {
        let received = Timestamp::now();
        let Admitted { head, proof, mut catalog } = admitted;
        if body.len() > MAX_BODY {
            return Err(too_large());
        }
        let mut instance = match proof {
            Proof::Given(instance) => instance,
            Proof::Awaited => {
                let proof;
                (catalog, proof) = self.prove(&head, Some(&body)).await?;
                given(proof)?
            }
        };
        if head.method == Method::OPTIONS {
            return Ok(head.headers.get(REQUEST_ORIGIN).cloned().map_or(Answer::Nothing, Answer::Welcome));
        }

        let pushes = match senders::read(&head.headers, &body, &instance.endpoint) {
            Ok(Notification::Pushes(pushes)) => pushes,
            Ok(Notification::Nothing) => Vec::new(),
            Ok(Notification::Validation(code)) => return Ok(Answer::Validation(code)),
            Err(unreadable) => return Err(Problem::new(400, unreadable.to_string())),
        };
        let deleted = senders::read_deletions(&head.headers, &body, &instance.endpoint);
        if pushes.is_empty() && deleted.is_empty() {
            return Ok(Answer::Nothing);
        }
        let mut accepted = Accepted::default();
        if !deleted.is_empty() {
            let now = self.catalog.snapshot().await.map_err(unavailable)?;
            if !Arc::ptr_eq(&now, &catalog) {
                instance = given(self.gate.prove(&head, Some(&body), &now).await?)?;
                catalog = now;
            }
            accepted.tasks = self.delete(&catalog, &instance.name, deleted, received).await.map_err(unavailable)?;
            if pushes.is_empty() && accepted.tasks.is_empty() {
                return Ok(Answer::Nothing);
            }
        }
        for deliveries in deliveries(&instance.name, pushes, received).chunks(AT_ONCE) {
            let remembered = |catalog: &Snapshot| remembered(catalog, deliveries);
            let (now, recalled) = self.catalog.recall(remembered).await.map_err(unavailable)?;
            if !Arc::ptr_eq(&now, &catalog) {
                // What proved the request may be over.
                instance = given(self.gate.prove(&head, Some(&body), &now).await?)?;
                catalog = now;
                tracing::debug!(instance = %instance.name, "the catalogue has changed");
            }
            let dispatched = self.dispatcher.dispatch_all(&catalog, deliveries, recalled).await.map_err(unavailable)?;
            tell(deliveries, &dispatched);
            for Dispatched { tasks, pending } in dispatched {
                accepted.tasks.extend(tasks);
                accepted.pending |= pending;
            }
        }
        Ok(Answer::Accepted(accepted))
    }
}

/// The header by which a sender of CloudEvents asks whether its notifications are wanted.
const REQUEST_ORIGIN: &str = "webhook-request-origin";

/// What is proven with the body at hand; then nothing is awaited any more.
fn given(proof: Proof) -> Result<Arc<transship_model::Instance>, Problem> {
    match proof {
        Proof::Given(instance) => Ok(instance),
        Proof::Awaited => Err(Problem::new(500, "the signature was not checked")),
    }
}

fn deliveries(instance: &InstanceName, pushes: Vec<Push>, received: Timestamp) -> Vec<Delivery> {
    let delivery = fastrand::u64(..);
    let of = |(at, push): (usize, Push)| {
        let Push { repository, tag, digest, id, time } = push;
        let event = PushEvent { instance: instance.clone(), repository, tag, digest, id, time, received };
        Delivery { event, nonce: format!("{received} {delivery:016x} {at}") }
    };
    pushes.into_iter().enumerate().map(of).collect()
}

/// The places whose origins decide what becomes of these, each once.
fn remembered(catalog: &Snapshot, deliveries: &[Delivery]) -> Vec<transship_model::Place> {
    let places: HashSet<_> =
        deliveries.iter().filter_map(|delivery| Dispatcher::remembered(catalog, &delivery.event)).collect();
    places.into_iter().collect()
}

/// A line of the log for each push.
fn tell(deliveries: &[Delivery], dispatched: &[Dispatched]) {
    for (Delivery { event, .. }, Dispatched { tasks, pending }) in deliveries.iter().zip(dispatched) {
        let (tasks, rules) = named(tasks);
        tracing::info!(
            instance = %event.instance, repository = %event.repository,
            tag = event.tag.as_ref().map(tracing::field::display), digest = event.digest.as_ref().map(tracing::field::display),
            tasks, rules, pending, "push"
        );
    }
}

/// The IDs of tasks, and those of their rules in the same order, for a line of the log.
fn named(tasks: &[TaskId]) -> (String, String) {
    let ids: Vec<&str> = tasks.iter().map(TaskId::as_str).collect();
    let rules: Vec<String> = tasks.iter().map(|task| task.rule().to_string()).collect();
    (ids.join(" "), rules.join(" "))
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
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(Problem::MEDIA_TYPE));
    match problem.status {
        401 => headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
        405 => headers.insert(header::ALLOW, HeaderValue::from_static("POST, OPTIONS")),
        503 => headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1")),
        _ => None,
    };
    response
}

fn answer(status: StatusCode, content: &impl Serialize) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(serde_json::to_vec(content).unwrap_or_default()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn unavailable(error: StateError) -> Problem {
    tracing::error!(%error, "a notification could not be stored");
    Problem::new(503, "the notification could not be stored: send it again")
}
