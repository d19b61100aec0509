//! `transship serve`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::bail;
use tokio::signal::unix::{SignalKind, signal};

use crate::{client, commands::Waiting, config, serve};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The folder that keeps everything: queues, log, catalogue. Made if it is not there
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The configuration file: instances and rules
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The address to answer at. Registries send their notifications there
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
    #[command(flatten)]
    waiting: Waiting,
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let config = config::load(&arguments.config)?;
    for warning in &config.warnings {
        tracing::warn!("{}: {warning}", arguments.config.display());
    }
    let missing = config::missing(&config);
    if !missing.is_empty() {
        bail!("{}: {}", arguments.config.display(), missing.join("; "));
    }
    let token = client::token();
    let (data, listen, workers) = (arguments.data, arguments.listen, usize::from(arguments.workers));
    if token.is_none() && !listen.ip().is_loopback() {
        tracing::warn!("without TRANSSHIP_TOKEN the API answers this machine only; notifications are taken from everywhere");
    }
    let (instances, rules, patience) = (config.instances, config.rules, arguments.waiting.patience());
    let keep_tasks = Duration::from_secs(u64::from(arguments.keep_tasks) * 24 * 3600);
    let settings = serve::Settings { data, instances, rules, listen, token, workers, patience, keep_tasks };
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
