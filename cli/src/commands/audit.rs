//! `transship audit`.

use std::num::NonZeroUsize;

use crate::{
    client::{AuditFilter, Client, Connection},
    output::{self, Format},
    time::When,
};

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
    /// How the answer is printed
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Format,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { since, until, who, limit, output, connection } = arguments;
    let filter = AuditFilter { since: since.map(When::ago).transpose()?, until: until.map(When::ago).transpose()?, who };
    let entries = Client::new(connection)?.audit(&filter, limit.get()).await?;
    match output {
        Format::Json => output::print_json(&entries),
        Format::Table if entries.is_empty() => {
            eprintln!("nothing has been changed");
            Ok(())
        }
        Format::Table => output::print(&output::audit(&entries)),
    }
}
