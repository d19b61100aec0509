//! `transship audit`.

use std::num::NonZeroUsize;

use crate::{client::AuditFilter, commands::Printed, output, time::When};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only what is not older: a time, or so long ago, as in 7d or 12h
    #[arg(long, value_name = "WHEN")]
    since: Option<When>,
    /// Only what is older
    #[arg(long, value_name = "WHEN")]
    until: Option<When>,
    /// Only what this caller did, as the list names it: `token:ID`, `deployment`
    #[arg(long, value_name = "CALLER")]
    who: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value = "50")]
    limit: NonZeroUsize,
    #[command(flatten)]
    printed: Printed,
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { since, until, who, limit, printed } = arguments;
    let (client, format) = printed.open()?;
    let filter = AuditFilter { since: since.map(When::ago).transpose()?, until: until.map(When::ago).transpose()?, who };
    let entries = client.audit(&filter, limit.get()).await?;
    format.list(&entries, "nothing of that kind has been changed", output::audit)
}
