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
        eprintln!("warning: {warning}");
    }
    for missing in config::missing_secrets(&config) {
        eprintln!("warning: {missing}");
    }
    let (instances, rules) = (config.instances.len(), config.rules.len());
    output::print(&format!("{}: {instances} instances, {rules} rules, no mistakes", arguments.config.display()))
}
