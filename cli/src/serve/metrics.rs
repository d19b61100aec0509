//! `/metrics`: what `serve` tells Prometheus, in the text format of OpenMetrics 1.0.
//!
//! Counters begin at zero with the process, as Prometheus expects of all counters, and grow as the task log does: a resource when it has
//! its outcome, a task when it ends, each once, however often its events arrive. What is not counted but known is looked up when
//! Prometheus asks: queues, and when each rule last succeeded, which the log knows from before the start, too.
//!
//! Only the last success has a series for each rule; all else is for the whole process, so that ten thousand rules do not make a
//! hundred thousand series.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
};

use axum::{
    http::header,
    response::{IntoResponse as _, Response},
};
use jiff::Timestamp;
use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::Registry,
};
use transship_model::{Caller, Counts, Problem, Role, RuleId, TaskStatus};
use transship_registry::Http;
use transship_state::{Catalog, Recorded, StateError, TaskLog, sqlite::SqliteQueue};

/// The process's queues, by name.
pub(crate) type Queues = [(&'static str, SqliteQueue); 3];

/// What is counted, and where the rest is found.
pub(crate) struct Metrics {
    started: Timestamp,
    counted: Mutex<Counted>,
    catalog: Arc<Catalog>,
    log: TaskLog,
    queues: Queues,
    /// What registries have asked for is known there.
    http: Http,
}

/// Since the process began.
#[derive(Debug, Clone, Default)]
struct Counted {
    tasks: HashMap<TaskStatus, u64>,
    resources: Counts,
    /// When a rule's last task that succeeded ended, as far as the log has been asked for it; `None` if there is none.
    succeeded: HashMap<RuleId, Option<Timestamp>>,
}

/// The states in which a task ends.
const ENDS: [(TaskStatus, &str); 4] = [
    (TaskStatus::Succeeded, "succeeded"),
    (TaskStatus::PartlyFailed, "partly-failed"),
    (TaskStatus::Failed, "failed"),
    (TaskStatus::Cancelled, "cancelled"),
];

/// So many tasks are read at a time to find one that succeeded.
const PAGE: usize = 100;

/// OpenMetrics 1.0, "Protocol Negotiation".
const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;
type Counters = Family<Labels, Counter>;
type Seconds = Counter<f64, AtomicU64>;
type Measure = Gauge<f64, AtomicU64>;

impl Metrics {
    /// Nothing has been counted yet.
    pub(crate) fn new(catalog: Arc<Catalog>, log: TaskLog, queues: Queues, http: Http) -> Self {
        Self { started: Timestamp::now(), counted: Mutex::default(), catalog, log, queues, http }
    }

    /// Counts what has changed in the log.
    pub(crate) fn note(&self, recorded: &Recorded) {
        let mut counted = self.counted();
        counted.resources += recorded.counts;
        for task in &recorded.closed {
            *counted.tasks.entry(task.status()).or_default() += 1;
            if task.status() == TaskStatus::Succeeded {
                let last = counted.succeeded.entry(task.head.id.rule()).or_default();
                *last = (*last).max(task.ended);
            }
        }
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What Prometheus is answered.
    pub(crate) async fn scrape(&self, caller: &Caller) -> Response {
        if !caller.may(Role::Viewer) {
            let detail = format!("metrics need the role {} for all instances", Role::Viewer);
            return transship_api::access::refuse(&Problem::new(403, detail));
        }
        match self.text().await {
            Ok(text) => ([(header::CONTENT_TYPE, MEDIA_TYPE)], text).into_response(),
            Err(error) => {
                tracing::error!(%error, "the metrics");
                transship_api::access::refuse(&Problem::new(503, "the store does not answer: see the log"))
            }
        }
    }

    /// All of it, as Prometheus reads it.
    async fn text(&self) -> Result<String, Unreadable> {
        let mut registry = Registry::with_prefix("transship");
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        registry.register("build", "The version that runs", Info::new(version));
        let started = Measure::default();
        started.set(seconds(self.started));
        registry.register("start_time_seconds", "When the process began, since 1970", started);
        self.add_queues(&mut registry).await?;
        self.add_successes(&mut registry).await?;
        self.add_counted(&mut registry);
        self.add_throttling(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }

    fn add_counted(&self, registry: &mut Registry) {
        let Counted { tasks, resources, .. } = self.counted().clone();
        let by_status = Counters::default();
        for (status, word) in ENDS {
            let number = tasks.get(&status).copied().unwrap_or_default();
            by_status.get_or_create(&vec![("status", word.to_owned())]).inc_by(number);
        }
        registry.register("tasks", "Tasks that have ended", by_status);
        let by_outcome = Counters::default();
        let Counts { copied, unchanged, deleted, skipped, failed, bytes_moved, .. } = resources;
        let bytes_saved = resources.bytes_saved();
        for (outcome, number) in
            [("copied", copied), ("unchanged", unchanged), ("deleted", deleted), ("skipped", skipped), ("failed", failed)]
        {
            by_outcome.get_or_create(&vec![("outcome", outcome.to_owned())]).inc_by(number);
        }
        registry.register("resources", "Resources that have their outcome", by_outcome);
        for (name, help, number) in [
            ("moved_bytes", "Bytes sent to targets, counted when their resource has its outcome", bytes_moved),
            ("saved_bytes", "Bytes that targets had already, or mounted", bytes_saved),
        ] {
            let counter: Counter = Counter::default();
            counter.inc_by(number);
            registry.register(name, help, counter);
        }
    }

    async fn add_queues(&self, registry: &mut Registry) -> Result<(), Unreadable> {
        let (messages, ages) = (Family::<Labels, Gauge>::default(), Family::<Labels, Measure>::default());
        for (name, queue) in &self.queues {
            let (depth, oldest) = (queue.depth().await?, queue.oldest().await?);
            for (state, number) in [("waiting", depth.visible), ("held", depth.held), ("dead", depth.dead)] {
                let labels = vec![("queue", (*name).to_owned()), ("state", state.to_owned())];
                messages.get_or_create(&labels).set(number.into());
            }
            let age = oldest.map_or(0.0, |sent| Timestamp::now().duration_since(sent).as_secs_f64().max(0.0));
            ages.get_or_create(&vec![("queue", (*name).to_owned())]).set(age);
        }
        let help = "Messages that wait, that are worked on or wait for another try, and that were given up";
        registry.register("queue_messages", help, messages);
        let help = "How long ago the oldest message was sent that is not done with; 0 where there is none";
        registry.register("queue_oldest_message_age_seconds", help, ages);
        Ok(())
    }

    /// Of enabled rules: whoever watches them is not to hear of one that is switched off.
    async fn add_successes(&self, registry: &mut Registry) -> Result<(), Unreadable> {
        let family = Family::<Labels, Measure>::default();
        let catalog = self.catalog.snapshot().await?;
        let rules = catalog.instances().flat_map(|instance| catalog.rules_of(&instance.name));
        for rule in rules.filter(|rule| rule.enabled) {
            let Some(ended) = self.last_success(rule.id).await? else { continue };
            let labels = vec![("instance", rule.source.instance.to_string()), ("rule", rule.name.to_string())];
            family.get_or_create(&labels).set(seconds(ended));
        }
        let help =
            "When the rule's last task that succeeded ended, since 1970; absent if none did in the 90 days that tasks are kept";
        registry.register("rule_last_success_timestamp_seconds", help, family);
        Ok(())
    }

    /// When the rule's last task that succeeded ended. The log is asked once; after that, [`Metrics::note`] knows.
    async fn last_success(&self, rule: RuleId) -> Result<Option<Timestamp>, StateError> {
        if let Some(known) = self.counted().succeeded.get(&rule) {
            return Ok(*known);
        }
        let (mut after, mut found) = (None, None);
        loop {
            let page = self.log.tasks(rule, after, PAGE).await?;
            let mut succeeded = page.items.iter().filter(|task| task.ended.is_some() && task.status() == TaskStatus::Succeeded);
            found = found.max(succeeded.next().and_then(|task| task.ended));
            after = page.next;
            if found.is_some() || after.is_none() {
                break;
            }
        }
        // One may have ended meanwhile.
        let mut counted = self.counted();
        let last = counted.succeeded.entry(rule).or_default();
        *last = (*last).max(found);
        Ok(*last)
    }

    fn add_throttling(&self, registry: &mut Registry) {
        let (answers, waits) = (Counters::default(), Family::<Labels, Seconds>::default());
        for (origin, throttling) in self.http.throttling() {
            let labels = vec![("registry", origin.to_string())];
            answers.get_or_create(&labels).inc_by(throttling.answers);
            waits.get_or_create(&labels).inc_by(throttling.waited.as_secs_f64());
        }
        let help = "Answers of a registry that asked for less: 429, or 503 with the time to wait";
        registry.register("registry_throttled", help, answers);
        let help = "How long requests to a registry were held back because it asked for less, all of them added up";
        registry.register("registry_throttle_wait_seconds", help, waits);
    }
}

fn seconds(time: Timestamp) -> f64 {
    time.as_duration().as_secs_f64()
}

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Queue(#[from] transship_state::QueueError),
    #[error("the metrics can't be written")]
    Text(#[from] std::fmt::Error),
}
