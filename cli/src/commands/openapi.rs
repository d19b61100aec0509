//! `transship openapi`.

use crate::{
    client::{Client, Connection},
    output,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    output::print_json(&Client::new(arguments.connection)?.document().await?)
}
