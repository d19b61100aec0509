//! The commands, one file each.

pub(crate) mod apply;
pub(crate) mod audit;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod copy;
pub(crate) mod demo;
pub(crate) mod explain;
pub(crate) mod instances;
pub(crate) mod openapi;
pub(crate) mod preview;
pub(crate) mod rules;
pub(crate) mod serve;
pub(crate) mod subscriptions;
pub(crate) mod tasks;
pub(crate) mod tokens;

use std::time::Duration;

use transship_registry::Patience;

use crate::{
    client::{Client, Connection},
    output::Format,
};

/// What commands take that call the API and print what it answers.
#[derive(Debug, clap::Args)]
pub(crate) struct Printed {
    /// How the answer is printed
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Format,
    #[command(flatten)]
    connection: Connection,
}

impl Printed {
    /// The API, and how to print what it answers.
    pub(crate) fn open(self) -> anyhow::Result<(Client, Format)> {
        Ok((Client::new(self.connection)?, self.output))
    }
}

/// What all commands that talk to registries take.
#[derive(Debug, clap::Args)]
pub(crate) struct Waiting {
    /// How long a registry may show no progress before a request to it is given up and made again. There is no limit in all
    #[arg(
        long,
        env = "TRANSSHIP_STALL_TIMEOUT",
        value_name = "SECONDS",
        default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(1..=86_400)
    )]
    stall_timeout: u64,
}

impl Waiting {
    pub(crate) fn patience(&self) -> Patience {
        Patience::with_stalls_of(Duration::from_secs(self.stall_timeout))
    }
}
