//! `transship check`.

use std::path::PathBuf;

use crate::{config, output};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let config = config::load(&arguments.config)?;
    for warning in &config.warnings {
        let config::Mistake { line, column, message } = warning;
        eprintln!("{}:{line}:{column}: warning: {message}", arguments.config.display());
    }
    for missing in config::missing(&config) {
        eprintln!("{}: warning: {missing}", arguments.config.display());
    }
    let (instances, rules) = (config.instances.len() as u64, config.rules.len() as u64);
    let (instances, rules) = (output::count(instances, "instance"), output::count(rules, "rule"));
    let subscriptions = match config.subscriptions.len() as u64 {
        0 => String::new(),
        some => format!(", {}", output::count(some, "subscription")),
    };
    output::print(&format!("{}: {instances}, {rules}{subscriptions}, no mistakes", arguments.config.display()))
}
