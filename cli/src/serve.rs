//! Everything in one process: webhook, workers, logger, notifier and API on the embedded store.

mod access;
mod http;
mod metrics;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use secrecy::SecretString;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};
use transship_logger::{Logger, Outlets};
use transship_model::{Caller, EventType, Instance, Owner, Rule, Subscription};
use transship_notifier::Notifier;
use transship_registry::{Http, Patience};
use transship_state::{
    Applied, AttemptLog, Catalog, DeadLetters, DeliveryLog, Dispatcher, Events, Feed, FolderSecrets, Incoming, Jobs,
    Notifications, Origins, Previews, Queue, QueueError, Scheduler, Table, TaskLog, Topic, Uploads, WrittenSecrets, first_runs,
    sqlite::{QueueKind, SqliteQueue, SqliteStore},
};
use transship_webhook::Webhook;
use transship_worker::{Disposition, HOLD, Stores, Worker};

use self::metrics::Metrics;
use crate::secrets::ProcessSecrets;

/// What a process is started with.
pub(crate) struct Settings {
    /// Where the store is; made if it is not there.
    pub(crate) data: PathBuf,
    /// What a configuration file says, if there is one.
    pub(crate) file: Option<File>,
    /// Whether what others own becomes the file's where it has the same name; without a file, the API's.
    pub(crate) adopt: bool,
    /// The address to answer at; port 0 for any that is free.
    pub(crate) listen: SocketAddr,
    /// What the API asks its callers for; without one it lets in this machine only.
    pub(crate) token: Option<SecretString>,
    /// How many jobs are worked on at once.
    pub(crate) workers: usize,
    /// How long registries may take.
    pub(crate) patience: Patience,
    /// How long tasks are kept after their beginning.
    pub(crate) keep_tasks: Duration,
    /// What hears of the ends of tasks besides subscriptions.
    pub(crate) topic: Option<Arc<dyn Topic>>,
    /// Which ends of resources it hears of.
    pub(crate) topic_resources: Vec<EventType>,
}

/// A configuration file: what the API does not change.
pub(crate) struct File {
    /// Where it is, for messages.
    pub(crate) path: String,
    /// Its instances.
    pub(crate) instances: Vec<Instance>,
    /// Its rules.
    pub(crate) rules: Vec<Rule>,
    /// Its subscriptions.
    pub(crate) subscriptions: Vec<Subscription>,
    /// Whether rules that are new begin with a full run.
    pub(crate) first_run: bool,
}

/// A process that is running.
pub(crate) struct Running {
    /// Where it answers.
    pub(crate) address: SocketAddr,
    stop: watch::Sender<bool>,
    feed: Feed,
    loops: JoinSet<anyhow::Result<()>>,
}

/// How many events the logger takes in at once.
const LOG_BATCH: usize = 200;
/// How many webhooks are told something at once: one that does not answer keeps its place for seconds.
const NOTIFIED_AT_ONCE: usize = 16;
/// How often ends of tasks are looked for that were not told.
const SWEEP: Duration = Duration::from_secs(60);
/// Schedules are of minutes.
const MINUTE: Duration = Duration::from_secs(60);
/// For so long work in progress may go on after the process was asked to stop.
const GRACE: Duration = Duration::from_secs(5);

/// Starts everything and returns when it answers.
pub(crate) async fn start(settings: Settings) -> anyhow::Result<Running> {
    let store = Arc::new(SqliteStore::open(&settings.data)?);
    let listener = tokio::net::TcpListener::bind(settings.listen)
        .await
        .with_context(|| format!("can't listen at {}: choose another address with --listen", settings.listen))?;
    let address = listener.local_addr()?;
    let table: Arc<dyn Table> = Arc::new(store.table());
    let jobs_queue = store.queue("jobs", QueueKind::Fifo);
    let events_queue = store.queue("events", QueueKind::Standard);
    let notifications_queue = store.queue("notifications", QueueKind::Standard);
    let (jobs, events) = (Jobs(Arc::new(jobs_queue.clone())), Events(Arc::new(events_queue.clone())));

    let catalog = Arc::new(Catalog::new(table.clone()));
    match settings.file {
        Some(file) => apply(&catalog, file, settings.adopt).await?,
        None if settings.adopt => hand_over(&catalog).await?,
        None => {}
    }
    // Those of the file, and those whose start a kill came in between.
    let begun =
        first_runs::start_all(&catalog, &jobs, &events).await.context("the first runs of new rules can't be started")?;
    if begun > 0 {
        tracing::info!(rules = begun, "first runs of new rules");
    }
    let origins = Origins::new(table.clone());
    let log = TaskLog::new(table.clone()).keeping(settings.keep_tasks);
    let feed = Feed::default();
    let stored = FolderSecrets::new(settings.data.join("secrets"));
    let secrets = Arc::new(ProcessSecrets::new(stored.clone()));
    let dispatcher = Dispatcher::new(origins.clone(), jobs.clone(), events.clone());
    let written = WrittenSecrets::new(table.clone(), Arc::new(stored));
    let notifications = Notifications(Arc::new(notifications_queue.clone()));
    let api = transship_api::Api::new(transship_api::Stores {
        table: table.clone(),
        catalog: catalog.clone(),
        log: log.clone(),
        jobs: jobs.clone(),
        events: events.clone(),
        notifications: notifications.clone(),
        written,
    });
    let api = api.streaming(feed.clone());
    if settings.adopt {
        api.suspect_all().await.context("secrets that were given to the API can't be looked at")?;
    }
    let scheduler = Arc::new(Scheduler::new(catalog.clone(), table.clone(), jobs.clone(), events.clone()));
    let webhook = Webhook::new(catalog.clone(), dispatcher, scheduler.clone(), secrets.clone());
    let previews = Previews::new(table.clone());
    let attempts = AttemptLog::new(table.clone());
    // The data folder is one process's: what the one before has left behind is this one's.
    let uploads = Uploads::new(table.clone(), "serve");
    let notifier = Notifier::new(catalog.clone(), DeliveryLog::new(table.clone()), secrets.clone());
    let (topic, topic_resources) = (settings.topic, settings.topic_resources);
    let outlets = Outlets { catalog: catalog.clone(), topic, topic_resources, notifications };
    let dead_letters = DeadLetters::new(table).keeping(settings.keep_tasks);
    let logger = Logger::new(log.clone(), dead_letters.clone(), outlets).feeding(feed.clone());
    let http = Http::with_patience(settings.patience)?;
    let queues =
        [("jobs", jobs_queue.clone()), ("events", events_queue.clone()), ("notifications", notifications_queue.clone())];
    let metrics = Arc::new(Metrics::new(catalog.clone(), log.clone(), queues.clone(), http.clone()));
    let stores = Stores { catalog, origins, attempts, previews, log, dead_letters, uploads, jobs, events, secrets };
    let worker = Worker::new(stores, http);

    let (stop, stopped) = watch::channel(false);
    let mut loops = JoinSet::new();
    loops.spawn(work(Arc::new(worker), jobs_queue.clone(), settings.workers, stopped.clone()));
    loops.spawn(record(logger.clone(), metrics.clone(), events_queue, stopped.clone()));
    loops.spawn(bury(logger.clone(), metrics.clone(), jobs_queue.dead_letters(), stopped.clone()));
    loops.spawn(sweep(logger, api.clone(), stopped.clone()));
    loops.spawn(tick(scheduler, stopped.clone()));
    loops.spawn(notify(Arc::new(notifier), notifications_queue, stopped.clone()));
    let router = http::router(webhook, api, settings.token, http::Health::new(store, queues), metrics);
    loops.spawn(http::serve(listener, router, stopped));
    Ok(Running { address, stop, feed, loops })
}

/// Brings what a configuration file owns to what it says.
async fn apply(catalog: &Catalog, file: File, adopt: bool) -> anyhow::Result<()> {
    let File { path, instances, rules, subscriptions, first_run } = file;
    let owner = Owner::File(path);
    let plan = match adopt {
        true => catalog.plan_adopting(&owner, &instances, &rules, &subscriptions, first_run).await,
        false => catalog.plan_all(&owner, &instances, &rules, &subscriptions, first_run).await,
    };
    let file = Caller::all_powerful(format!("file {}", owner.file().unwrap_or_default()));
    let plan = plan.context("the catalogue can't be read")?.by(file, "");
    if !plan.refusals().is_empty() {
        let way = if plan.has_others() { "; or start it once with --adopt: then they are the file's" } else { "" };
        bail!("{}{way}", plan.refusals().join("; "));
    }
    let applied = catalog.carry_out(plan).await.context("the catalogue can't be written")?;
    let Applied { created, changed, deleted } = applied;
    tracing::info!(instances = instances.len(), rules = rules.len(), created, changed, deleted, "configuration");
    Ok(())
}

/// Gives the API what configuration files had.
async fn hand_over(catalog: &Catalog) -> anyhow::Result<()> {
    let plan = catalog.plan_handover(&Owner::Api).await.context("the catalogue can't be read")?;
    let plan = plan.by(Caller::all_powerful("serve --adopt"), "");
    catalog.carry_out(plan).await.context("the catalogue can't be written")?;
    tracing::info!("all instances, rules and subscriptions are the API's now");
    Ok(())
}

impl Running {
    /// Waits until a part of the process ends, which none does by itself.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        match self.loops.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Err(panic)) => anyhow::Error::new(panic).context("a part of the process ended by a bug"),
            Some(Ok(Ok(()))) | None => anyhow::anyhow!("a part of the process ended"),
        }
    }

    /// Ends it: new work is not begun, what runs may go on for a moment. What is not finished then goes on at the next start.
    pub(crate) async fn stop(mut self) {
        self.stop.send_replace(true);
        self.feed.end();
        let all = async { while self.loops.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(2 * GRACE, all).await;
    }
}

/// Runs jobs, a bounded number at once. A free worker is woken by the queue; nothing polls.
async fn work(
    worker: Arc<Worker>,
    queue: SqliteQueue,
    workers: usize,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let places = Arc::new(Semaphore::new(workers));
    let mut running = JoinSet::new();
    let (cut, cut_off) = watch::channel(false);
    loop {
        let place = tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => break,
            place = places.clone().acquire_owned() => place?,
        };
        let messages = tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => break,
            messages = queue.receive(1 + places.available_permits(), HOLD) => messages,
        };
        let messages = match messages {
            Ok(messages) => messages,
            Err(error) => {
                tracing::error!(%error, "the jobs queue");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let mut place = Some(place);
        for message in messages {
            let place = place.take().or_else(|| places.clone().try_acquire_owned().ok());
            let (worker, queue, mut cut_off) = (worker.clone(), queue.clone(), cut_off.clone());
            running.spawn(async move {
                let _place = place;
                let stop = async { drop(cut_off.wait_for(|cut| *cut).await) };
                let disposition = worker.deliver(&queue, &message, None, stop).await;
                settle(&queue, &message, disposition).await;
            });
        }
        while let Some(ended) = running.try_join_next() {
            report_panic(ended);
        }
    }
    let deadline = tokio::time::sleep(GRACE);
    tokio::pin!(deadline);
    loop {
        tokio::select! {
            ended = running.join_next() => match ended {
                Some(ended) => report_panic(ended),
                None => return Ok(()),
            },
            () = &mut deadline, if !*cut.borrow() => drop(cut.send_replace(true)),
        }
    }
}

/// Work that panicked: its message comes again when its hold is over.
fn report_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "work on a message ended by a bug");
    }
}

async fn settle(queue: &SqliteQueue, message: &Incoming, disposition: Disposition) {
    let result = match disposition {
        Disposition::Done => queue.delete(&message.receipt).await,
        Disposition::Again(wait) => queue.release(&message.receipt, wait).await,
        Disposition::Lost => Ok(()),
    };
    match result {
        // It comes again, and is found done.
        Err(error @ QueueError::Lost) => tracing::warn!(%error, "work on a message ended after its time"),
        Err(error) => tracing::error!(%error, "a message"),
        Ok(()) => {}
    }
}

/// Writes the log.
async fn record(
    logger: Logger,
    metrics: Arc<Metrics>,
    queue: SqliteQueue,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    loop {
        let messages = tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
            messages = queue.receive(LOG_BATCH, HOLD) => messages,
        };
        let result = async {
            let messages = messages?;
            metrics.note(&logger.record(messages.iter().map(|message| message.body.as_str())).await?);
            queue.delete_all(messages.into_iter().map(|message| message.receipt).collect()).await?;
            anyhow::Ok(())
        };
        if let Err(error) = result.await {
            tracing::error!(%error, "the log could not be written; the events come again");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Marks as failed what jobs that nobody could do were for.
async fn bury(
    logger: Logger,
    metrics: Arc<Metrics>,
    queue: SqliteQueue,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    loop {
        let messages = tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
            messages = queue.receive(10, HOLD) => messages,
        };
        let result = async {
            for message in messages? {
                metrics.note(&logger.bury(&message.body).await?);
                queue.delete(&message.receipt).await?;
            }
            anyhow::Ok(())
        };
        if let Err(error) = result.await {
            tracing::error!(%error, "a dead letter could not be logged; it comes again");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Tells what was not told, and takes away secrets that a change has left: by the process before, if it was killed, or because a store
/// did not answer.
async fn sweep(logger: Logger, api: transship_api::Api, mut stopped: watch::Receiver<bool>) -> anyhow::Result<()> {
    let mut times = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
            _ = times.tick() => {}
        }
        if let Err(error) = logger.sweep().await {
            tracing::error!(%error, "ends of tasks that were not told could not be looked for");
        }
        if let Err(error) = api.sweep().await {
            tracing::error!(%error, "secrets that nobody uses any more could not be looked for");
        }
    }
}

/// Starts rules whose scheduled time has come: at once, for what was missed, and at each full minute.
async fn tick(scheduler: Arc<Scheduler>, mut stopped: watch::Receiver<bool>) -> anyhow::Result<()> {
    loop {
        if let Err(error) = scheduler.tick(Timestamp::now()).await {
            tracing::error!(%error, "scheduled runs could not be started; the next minute tries it again");
        }
        // Measured anew each time: the clock that schedules go by may be set.
        let now = Timestamp::now();
        let into_minute = Duration::from_nanos(now.as_nanosecond().rem_euclid(MINUTE.as_nanos().cast_signed()) as u64);
        tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
            () = tokio::time::sleep(MINUTE - into_minute) => {}
        }
    }
}

/// Tells webhooks. What is on its way when the process stops is told again at the next start.
async fn notify(notifier: Arc<Notifier>, queue: SqliteQueue, mut stopped: watch::Receiver<bool>) -> anyhow::Result<()> {
    let places = Arc::new(Semaphore::new(NOTIFIED_AT_ONCE));
    let mut running = JoinSet::new();
    loop {
        let place = tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
            place = places.clone().acquire_owned() => place?,
        };
        let messages = tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
            messages = queue.receive(1, HOLD) => messages,
        };
        let message = match messages {
            Ok(messages) => messages.into_iter().next(),
            Err(error) => {
                tracing::error!(%error, "the notifications queue");
                tokio::time::sleep(Duration::from_secs(1)).await;
                None
            }
        };
        let Some(message) = message else { continue };
        let (notifier, queue) = (notifier.clone(), queue.clone());
        running.spawn(async move {
            let _place = place;
            let disposition = match notifier.deliver(&message).await {
                transship_notifier::Disposition::Done | transship_notifier::Disposition::Disabled => Disposition::Done,
                transship_notifier::Disposition::Again(wait) => Disposition::Again(wait),
            };
            settle(&queue, &message, disposition).await;
        });
        while let Some(ended) = running.try_join_next() {
            report_panic(ended);
        }
    }
}
