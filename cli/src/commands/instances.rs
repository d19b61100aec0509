//! `transship instances`.

use transship_api::view::InstanceView;
use transship_model::InstanceName;

use crate::{
    client::{Client, Connection},
    output::{self, Format},
};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the registries that transship knows
    List(ListArguments),
    /// Show one of them: all but its secrets
    Show(ShowArguments),
    /// Delete one that no rule names, and the secrets that were given for it
    Delete(DeleteArguments),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArguments {
    /// How the answer is printed
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Format,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShowArguments {
    /// The instance
    #[arg(value_name = "INSTANCE")]
    instance: InstanceName,
    /// How the answer is printed
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Format,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DeleteArguments {
    /// The instance
    #[arg(value_name = "INSTANCE")]
    instance: InstanceName,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::List(ListArguments { output, connection }) => {
            let instances = Client::new(connection)?.instances().await?;
            match output {
                Format::Json => output::print_json(&instances),
                Format::Table if instances.is_empty() => {
                    eprintln!("there are no instances yet: `transship apply -f FILE` makes those of a file");
                    Ok(())
                }
                Format::Table => output::print(&table(&instances)),
            }
        }
        Command::Show(ShowArguments { instance, output, connection }) => {
            let instance = Client::new(connection)?.instance(&instance).await?;
            match output {
                Format::Json => output::print_json(&instance),
                Format::Table => output::print(&output::fields(&instance)?),
            }
        }
        Command::Delete(DeleteArguments { instance, connection }) => {
            Client::new(connection)?.delete_instance(&instance, None).await?;
            output::print(&format!("instance {instance} is deleted"))
        }
    }
}

fn table(instances: &[InstanceView]) -> String {
    let row = |view: &InstanceView| {
        let instance = &view.written;
        vec![
            view.name().to_owned(),
            instance.endpoint.to_string(),
            instance.kind.to_string(),
            instance.region.clone().unwrap_or_else(|| "-".into()),
            if instance.credentials.is_some() { "yes" } else { "no" }.to_owned(),
            view.file.clone().unwrap_or_else(|| "the API".into()),
        ]
    };
    output::rows(&["instance", "endpoint", "kind", "region", "credentials", "managed by"], instances.iter().map(row))
}
