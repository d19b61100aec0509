//! A task as it goes on, as server-sent events (HTML Living Standard, 9.2).
//!
//! Events tell states, not changes: `task` is a task and `resource` one of its resources, each as it is read otherwise. What comes twice does
//! no harm, and who connects again is told what may have been missed.

use std::{collections::BTreeSet, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{
        IntoResponse as _, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::stream;
use jiff::Timestamp;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, broadcast::error::RecvError, mpsc},
    time::{Instant, timeout_at},
};
use transship_model::{Caller, Place, Problem, Resource, Task, TaskId};
use transship_state::{Changed, Feed, StateError, TaskLog, Tokens};

use crate::{
    Api,
    failure::Failure,
    requests::{By, Path},
    tasks,
    view::{ResourceView, TaskView},
};

/// Where changes are heard of, and how many may listen.
#[derive(Clone)]
pub(crate) struct Streams {
    feed: Feed,
    places: Arc<Semaphore>,
}

/// So many watch at once.
const MAX_STREAMS: usize = 200;
/// How often an estimate is made anew although nothing else has changed.
const REFRESH: Duration = Duration::from_secs(5);
/// How often something is sent, so that nothing on the way takes the connection for dead.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// What the log may have been behind when an event was sent.
const SLACK: Duration = Duration::from_secs(60);
/// So many resources are read at a time.
const PAGE: usize = 500;
/// The ID of the last event: who has it need not come again.
const END: &str = "end";

impl Streams {
    pub(crate) fn new(feed: Feed) -> Self {
        Self { feed, places: Arc::new(Semaphore::new(MAX_STREAMS)) }
    }
}

/// Watches a task until it ends, as server-sent events: `task` and `resource`, each with what reading it gives.
#[utoipa::path(
    get, path = "/v1/tasks/{task}/events", tag = "tasks", operation_id = "watchTask",
    security(("token" = ["viewer"])),
    params(
        ("task" = TaskId, Path, description = "The task"),
        ("last-event-id" = Option<String>, Header, description = "The ID of the last event that was received"),
    ),
    responses(
        (status = 200, description = "Events until the task ends", body = String, content_type = "text/event-stream"),
        (status = 204, description = "The task's end was received: there is nothing more to come"),
        (status = 501, description = "Nothing can be streamed on AWS", body = Problem, content_type = Problem::MEDIA_TYPE),
    )
)]
pub(crate) async fn watch(
    State(api): State<Api>,
    By(caller): By,
    Path(id): Path<TaskId>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    tasks::known(&api.log, &caller, &id).await?;
    let Some(streams) = &api.streams else {
        let detail = "a function's answer is sent when it is whole, so that nothing can be watched here: poll";
        return Err(Failure::new(501, format!("{detail} GET /v1/tasks/{id}")));
    };
    let last = headers.get("last-event-id").and_then(|last| last.to_str().ok());
    if last == Some(END) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let Ok(place) = streams.places.clone().try_acquire_owned() else {
        return Err(Failure::new(503, format!("{MAX_STREAMS} watch already: poll GET /v1/tasks/{id}")));
    };
    let last = last.and_then(|last| Timestamp::from_millisecond(last.parse().ok()?).ok());
    let since = last.and_then(|last| last.checked_sub(SLACK).ok());
    let (send, mut receive) = mpsc::channel(64);
    let watcher = Watcher { log: api.log.clone(), tokens: api.tokens.clone(), caller, id, send, shown: None };
    // Before anything is read: what changes from now on is heard.
    let heard = streams.feed.listen();
    tokio::spawn(watcher.run(heard, since, place));
    let events = stream::poll_fn(move |context| receive.poll_recv(context));
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT)).into_response())
}

type Sent = Result<Event, Infallible>;

/// Why watching is over.
enum Over {
    /// The watcher is gone, or the process ends.
    Gone,
    Store(StateError),
}

impl From<StateError> for Over {
    fn from(error: StateError) -> Self {
        Self::Store(error)
    }
}

/// Tells one listener of one task.
struct Watcher {
    log: TaskLog,
    tokens: Arc<Tokens>,
    caller: Caller,
    id: TaskId,
    send: mpsc::Sender<Sent>,
    /// The task as it was told last, but for the time that goes by.
    shown: Option<String>,
}

impl Watcher {
    async fn run(
        mut self,
        mut heard: tokio::sync::broadcast::Receiver<Option<Changed>>,
        since: Option<Timestamp>,
        _place: OwnedSemaphorePermit,
    ) {
        let gone = self.send.clone();
        tokio::select! {
            // Who has gone is not read for.
            () = gone.closed() => {}
            result = self.tell(&mut heard, since) => if let Err(Over::Store(error)) = result {
                // The connection ends, and the listener connects again.
                tracing::warn!(task = %self.id, %error, "a task can't be watched any longer");
            }
        }
    }

    async fn tell(
        &mut self,
        heard: &mut tokio::sync::broadcast::Receiver<Option<Changed>>,
        since: Option<Timestamp>,
    ) -> Result<(), Over> {
        if self.task().await? {
            self.walk(since).await?;
            return self.end().await;
        }
        self.walk(since).await?;
        loop {
            let mut places: BTreeSet<Place> = BTreeSet::new();
            let refresh = Instant::now() + REFRESH;
            loop {
                match timeout_at(refresh, heard.recv()).await {
                    Err(_) => break,
                    Ok(Ok(Some(change))) if change.task == self.id => {
                        places.extend(change.resources.iter().cloned());
                        // More of the same batch.
                        if heard.is_empty() || places.len() >= PAGE {
                            break;
                        }
                    }
                    Ok(Ok(Some(_))) if heard.is_empty() && !places.is_empty() => break,
                    Ok(Ok(Some(_))) => {}
                    Ok(Err(RecvError::Lagged(_))) => {
                        self.walk(Timestamp::now().checked_sub(SLACK).ok()).await?;
                        break;
                    }
                    Ok(Ok(None) | Err(RecvError::Closed)) => return Err(Over::Gone),
                }
            }
            for place in &places {
                if let Some(resource) = self.log.resource(&self.id, place).await? {
                    self.resource(resource).await?;
                }
            }
            if !self.tokens.still(&self.caller, Timestamp::now()).await? {
                return Err(Over::Gone);
            }
            if self.task().await? {
                return self.end().await;
            }
        }
    }

    /// Tells of all resources, or of those that have changed since then.
    async fn walk(&self, since: Option<Timestamp>) -> Result<(), Over> {
        let mut after = None;
        loop {
            let page = self.log.resources(&self.id, after, PAGE).await?;
            for resource in page.items {
                let changed = [Some(resource.queued), resource.ended, resource.progress.reported, resource.progress.started];
                if since.is_none_or(|since| changed.into_iter().flatten().any(|at| at >= since)) {
                    self.resource(resource).await?;
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Tells of the task if it has changed, but for its end. Whether it has ended.
    async fn task(&mut self) -> Result<bool, Over> {
        let Some(task) = self.log.task(&self.id).await? else { return Err(Over::Gone) };
        if task.ended.is_some() {
            return Ok(true);
        }
        let view = self.view(task).await?;
        let shown = serde_json::to_string(&TaskView { seconds: 0.0, ..view.clone() }).unwrap_or_default();
        if self.shown.as_ref() != Some(&shown) {
            self.shown = Some(shown);
            self.send("task", &view, None).await?;
        }
        Ok(false)
    }

    async fn end(&mut self) -> Result<(), Over> {
        let Some(task) = self.log.task(&self.id).await? else { return Err(Over::Gone) };
        let view = self.view(task).await?;
        self.send("task", &view, Some(END)).await
    }

    async fn view(&self, task: Task) -> Result<TaskView, StateError> {
        tasks::view(&self.log, task).await
    }

    async fn resource(&self, resource: Resource) -> Result<(), Over> {
        self.send("resource", &ResourceView::new(resource), None).await
    }

    async fn send<T: serde::Serialize>(&self, kind: &str, data: &T, id: Option<&str>) -> Result<(), Over> {
        let data = serde_json::to_string(data)
            .map_err(|error| StateError::Corrupt { what: format!("an event of task {}", self.id), why: error.to_string() })?;
        let id = id.map_or_else(|| Timestamp::now().as_millisecond().to_string(), str::to_owned);
        let event = Event::default().event(kind).id(id).data(data);
        self.send.send(Ok(event)).await.map_err(|_| Over::Gone)
    }
}
