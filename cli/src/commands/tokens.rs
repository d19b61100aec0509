//! `transship tokens`.

use std::num::NonZeroUsize;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use transship_api::TokenInput;
use transship_model::{InstanceName, Role, TokenId};

use crate::{
    client::{Client, Connection},
    commands::Printed,
    output::{self, Format},
    time::When,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make a token. It is printed to standard output, once: nothing can show it again
    Create(CreateArguments),
    /// List tokens, the newest first, with what they may do and when they were used last
    List(ListArguments),
    /// Show one token: what it may do, and when it was used last
    Show(ShowArguments),
    /// Revoke a token: within ten seconds it lets nobody in any more
    Revoke(RevokeArguments),
}

#[derive(Debug, clap::Args)]
struct CreateArguments {
    /// What it is for, as lists show it
    #[arg(value_name = "NAME")]
    name: String,
    /// What its bearer may do: look; make rules and start tasks, too; or everything
    #[arg(long, value_name = "ROLE", default_value = "viewer", value_parser = role())]
    role: Role,
    /// An instance that it is for; may be given several times. Without it: all of them
    #[arg(long = "instance", value_name = "INSTANCE")]
    instances: Vec<InstanceName>,
    /// When it expires: a time, or so long from now, as in 90d or 12h. Without it: never
    #[arg(long, value_name = "WHEN")]
    expires: Option<When>,
    #[command(flatten)]
    printed: Printed,
}

#[derive(Debug, clap::Args)]
struct ListArguments {
    /// At most so many
    #[arg(long, value_name = "N", default_value = "100")]
    limit: NonZeroUsize,
    #[command(flatten)]
    printed: Printed,
}

#[derive(Debug, clap::Args)]
struct ShowArguments {
    /// The token's ID, the 16 digits after `tsh_`; or the token itself, of which only the ID is sent
    #[arg(value_name = "ID", value_parser = id_of)]
    id: TokenId,
    #[command(flatten)]
    printed: Printed,
}

#[derive(Debug, clap::Args)]
struct RevokeArguments {
    /// The token's ID, the 16 digits after `tsh_`; or the token itself, of which only the ID is sent
    #[arg(value_name = "ID", value_parser = id_of)]
    id: TokenId,
    #[command(flatten)]
    connection: Connection,
}

/// One that shells can complete.
fn role() -> impl TypedValueParser<Value = Role> {
    PossibleValuesParser::new(Role::ALL.map(Role::as_str)).try_map(|text| text.parse::<Role>())
}

/// Of a token itself, only what is no secret.
fn id_of(text: &str) -> Result<TokenId, String> {
    let id = text.strip_prefix("tsh_").map_or(text, |rest| rest.split('_').next().unwrap_or_default());
    id.parse().map_err(|error| format!("{error}: `transship tokens list` shows them"))
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.action {
        Action::Create(arguments) => create(arguments).await,
        Action::List(arguments) => list(arguments).await,
        Action::Show(ShowArguments { id, printed }) => {
            let (client, format) = printed.open()?;
            format.show(&client.token(&id).await?, |token| output::tokens(std::slice::from_ref(token)))
        }
        Action::Revoke(RevokeArguments { id, connection }) => {
            Client::new(connection)?.revoke_token(&id).await?;
            eprintln!("token {id} is revoked");
            Ok(())
        }
    }
}

async fn create(arguments: CreateArguments) -> anyhow::Result<()> {
    let CreateArguments { name, role, instances, expires, printed } = arguments;
    let (client, format) = printed.open()?;
    let expires = expires.map(When::ahead).transpose()?;
    let instances = (!instances.is_empty()).then(|| instances.into_iter().collect());
    let made = client.create_token(&TokenInput { name, role, instances, expires }).await?;
    match format {
        Format::Json => output::print_json(&made),
        Format::Table => {
            output::print(&made.token)?;
            let until =
                made.about.expires.map_or_else(String::new, |expires| format!(" until {}", expires.strftime("%F %T UTC")));
            eprintln!("token {} ({}){until}: keep it now, nothing can show it again", made.about.id, made.about.role);
            Ok(())
        }
    }
}

async fn list(arguments: ListArguments) -> anyhow::Result<()> {
    let (client, format) = arguments.printed.open()?;
    let nothing = "there are no tokens but the deployment's own: `transship tokens create NAME` makes one";
    format.list(&client.tokens(arguments.limit.get()).await?, nothing, output::tokens)
}
