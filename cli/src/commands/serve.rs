//! `transship serve`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::bail;
use aws_config::BehaviorVersion;
use tokio::signal::unix::{SignalKind, signal};

use transship_model::EventType;
use transship_state::{Topic, aws::SnsTopic};

use crate::{client, commands::Waiting, config, serve};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The folder that keeps everything: queues, log, catalogue. Made if it is not there
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// A configuration file: instances, rules and subscriptions, which the API does not change then. Without one they are made through the API
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Wait for pushes: rules of the file that are new do not begin with a full run
    #[arg(long, requires = "config")]
    no_first_run: bool,
    /// Take over what is there already, once: with --config, what was made through the API and has a name that the file has becomes the
    /// file's; without, all that a file had becomes the API's, which changes it from then on
    #[arg(long)]
    adopt: bool,
    /// The address to answer at: for registries' notifications and the API, whose first token TRANSSHIP_TOKEN sets
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// How many resources are copied at once
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1000))]
    workers: u16,
    /// For how many days tasks are kept after their beginning
    #[arg(
        long,
        env = "TRANSSHIP_KEEP_TASKS",
        value_name = "DAYS",
        default_value_t = 90,
        value_parser = clap::value_parser!(u32).range(15..=3650)
    )]
    keep_tasks: u32,
    /// A topic of SNS that hears of the end of each task besides; it is asked with the AWS identity of this process
    #[arg(long, env = "TRANSSHIP_TOPIC_ARN", value_name = "ARN", value_parser = topic)]
    topic: Option<String>,
    /// Which resources the topic hears of
    #[arg(long, env = "TRANSSHIP_TOPIC_RESOURCES", value_name = "WHICH", default_value = "none", requires = "topic")]
    topic_resources: TopicResources,
    #[command(flatten)]
    waiting: Waiting,
}

/// The resources whose ends a topic hears of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum TopicResources {
    /// None: the ends of tasks only
    None,
    /// Those that fail
    Failed,
    /// All
    All,
}

impl TopicResources {
    fn events(self) -> Vec<EventType> {
        let all = EventType::ALL.into_iter().filter(|event| !event.is_of_task());
        match self {
            Self::None => Vec::new(),
            Self::Failed => vec![EventType::ResourceFailed],
            Self::All => all.collect(),
        }
    }
}

fn topic(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.split(':').collect();
    match parts[..] {
        ["arn", _, "sns", region, account, name] if ![region, account, name].contains(&"") => Ok(text.to_owned()),
        _ => Err("the ARN of a topic is like arn:aws:sns:eu-central-1:123456789012:transship".to_owned()),
    }
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let file = arguments.config.map(|path| file(&path, !arguments.no_first_run)).transpose()?;
    let token = client::token();
    let (data, listen, workers) = (arguments.data, arguments.listen, usize::from(arguments.workers));
    if token.is_none() && !listen.ip().is_loopback() {
        tracing::warn!("without TRANSSHIP_TOKEN the API answers this machine only; notifications are taken from everywhere");
    }
    let patience = arguments.waiting.patience();
    let keep_tasks = Duration::from_secs(u64::from(arguments.keep_tasks) * 24 * 3600);
    let topic: Option<Arc<dyn Topic>> = match arguments.topic {
        Some(arn) => {
            let sdk = aws_config::load_defaults(BehaviorVersion::latest()).await;
            Some(Arc::new(SnsTopic::new(aws_sdk_sns::Client::new(&sdk), arn)))
        }
        None => None,
    };
    let (adopt, topic_resources) = (arguments.adopt, arguments.topic_resources.events());
    let settings = serve::Settings { data, file, adopt, listen, token, workers, patience, keep_tasks, topic, topic_resources };
    let mut running = serve::start(settings).await?;
    tracing::info!(address = %running.address, "ready: notifications at /hooks/INSTANCE, the API at /v1/, /health");
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        error = running.failed() => return Err(error),
    }
    tracing::info!("stopping: what is not finished goes on at the next start");
    running.stop().await;
    Ok(())
}

/// Reads a configuration file, and looks whether there is what it names.
fn file(path: &Path, first_run: bool) -> anyhow::Result<serve::File> {
    let config = config::load(path)?;
    for warning in &config.warnings {
        tracing::warn!("{}: {warning}", path.display());
    }
    let missing = config::missing(&config);
    if !missing.is_empty() {
        bail!("{}: {}", path.display(), missing.join("; "));
    }
    // What the API says to whoever wants to change what is in it, whatever folder they are in.
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string();
    Ok(serve::File { path, instances: config.instances, rules: config.rules, subscriptions: config.subscriptions, first_run })
}
