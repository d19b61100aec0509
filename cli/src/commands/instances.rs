//! `transship instances`.

use std::{io::Read as _, path::PathBuf};

use anyhow::{Context as _, bail};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use transship_api::view::InstanceView;
use transship_model::{InstanceName, SecretRef};
use transship_state::{LocalSecrets, Secrets as _};

use crate::{
    client::{Client, Connection, Known},
    commands::{Printed, apply},
    config, output,
};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the registries that transship knows
    List(ListArguments),
    /// Show one of them: all but its secrets
    Show(ShowArguments),
    /// Make one as a file describes it
    Create(CreateArguments),
    /// Change some keys of one
    Change(ChangeArguments),
    /// Give one a secret, or replace it. It is read from standard input unless --secret says where it is
    SetSecret(SetSecretArguments),
    /// Take a secret away from one: it is anonymous then, takes no notifications, or its own are not signed
    DeleteSecret(DeleteSecretArguments),
    /// Delete one that no rule names, and the secrets that were given for it
    Delete(DeleteArguments),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArguments {
    #[command(flatten)]
    printed: Printed,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShowArguments {
    /// The instance
    #[arg(value_name = "INSTANCE")]
    instance: InstanceName,
    #[command(flatten)]
    printed: Printed,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CreateArguments {
    /// The file, or - for standard input: YAML or JSON, written as an entry of `instances` in a configuration file. Secrets that it
    /// names as env: or file: are read here and sent
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Replace the one that has this name already
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    printed: Printed,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ChangeArguments {
    /// The instance
    #[arg(value_name = "INSTANCE")]
    instance: InstanceName,
    /// The file, or - for standard input: YAML or JSON with the keys that are to be others, as the API takes them; null takes one away
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    printed: Printed,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SetSecretArguments {
    /// The instance
    #[arg(value_name = "INSTANCE")]
    instance: InstanceName,
    /// What it is for
    #[arg(value_name = "PURPOSE")]
    purpose: Purpose,
    /// Where it is: env:NAME or file:PATH, which are read here and sent, or secretsmanager:NAME or ssm:NAME, which are named
    #[arg(long, value_name = "REFERENCE")]
    secret: Option<SecretRef>,
    /// The user whose password it is; without one, credentials are a refresh token
    #[arg(long, value_name = "USER")]
    username: Option<String>,
    #[command(flatten)]
    printed: Printed,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DeleteSecretArguments {
    /// The instance
    #[arg(value_name = "INSTANCE")]
    instance: InstanceName,
    /// What it is for
    #[arg(value_name = "PURPOSE")]
    purpose: Purpose,
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

/// What a secret of an instance is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Purpose {
    /// To log in to the registry
    Credentials,
    /// To know who sends notifications
    Webhook,
    /// To sign what is told
    Notify,
}

impl Purpose {
    /// As the API names it.
    fn as_str(self) -> &'static str {
        match self {
            Self::Credentials => "credentials",
            Self::Webhook => "webhook",
            Self::Notify => "notify",
        }
    }
}

pub(crate) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::List(ListArguments { printed }) => {
            let (client, format) = printed.open()?;
            let nothing = "there are no instances yet: `transship apply -f FILE` makes those of a file";
            format.list(&client.instances().await?, nothing, table)
        }
        Command::Show(ShowArguments { instance, printed }) => {
            let (client, format) = printed.open()?;
            format.show(&client.instance(&instance).await?, output::fields)
        }
        Command::Create(CreateArguments { file, replace, printed }) => {
            let instance = config::load_instance(&file)?;
            apply::takes(&instance)?;
            let (client, format) = printed.open()?;
            let document = apply::with_values(&instance).await?;
            let known = if replace { Known::Anything } else { Known::Nothing };
            let made = client.put_instance(&instance.name, &document, known).await?;
            format.done(&made, &said(&made, "is made"))
        }
        Command::Change(ChangeArguments { instance, file, printed }) => {
            let patch = config::load_document(&file)?;
            let (client, format) = printed.open()?;
            let changed = client.patch_instance(&instance, &patch).await?;
            format.done(&changed, &said(&changed, "is changed"))
        }
        Command::SetSecret(arguments) => set_secret(arguments).await,
        Command::DeleteSecret(DeleteSecretArguments { instance, purpose, connection }) => {
            let purpose = purpose.as_str();
            Client::new(connection)?.delete_secret(&instance, purpose).await?;
            eprintln!("instance {instance} has no secret for {purpose} any more");
            Ok(())
        }
        Command::Delete(DeleteArguments { instance, connection }) => {
            Client::new(connection)?.delete_instance(&instance, Known::Anything).await?;
            eprintln!("instance {instance} is deleted");
            Ok(())
        }
    }
}

/// What became of an instance. An endpoint that is another does not get the secrets of the one before.
pub(crate) fn said(instance: &InstanceView, what: &str) -> String {
    let name = instance.name();
    match &instance.dropped[..] {
        [] => format!("instance {name} {what}"),
        dropped => format!(
            "instance {name} {what}, and has lost its secrets for {}: they were given for another place. \
             `transship instances set-secret {name}` gives them again",
            dropped.join(" and ")
        ),
    }
}

async fn set_secret(arguments: SetSecretArguments) -> anyhow::Result<()> {
    let SetSecretArguments { instance, purpose, secret, username, printed } = arguments;
    if username.is_some() && purpose != Purpose::Credentials {
        bail!("--username belongs to credentials: leave it out");
    }
    let secret = secret_of(secret).await?;
    let document = match (purpose, username) {
        (Purpose::Credentials, Some(username)) => json!({ "username": username, "password": secret }),
        (Purpose::Credentials, None) => json!({ "refresh_token": secret }),
        (Purpose::Webhook | Purpose::Notify, _) => secret,
    };
    let (client, format) = printed.open()?;
    let changed = client.put_secret(&instance, purpose.as_str(), &document).await?;
    format.done(&changed, &format!("instance {instance} has a secret for {} now", purpose.as_str()))
}

/// A secret as the API takes it: its value, or where AWS keeps it.
async fn secret_of(reference: Option<SecretRef>) -> anyhow::Result<Value> {
    let value = match reference {
        Some(reference @ (SecretRef::Env(_) | SecretRef::File(_))) => {
            LocalSecrets.read(&reference).await?.expose_secret().to_owned()
        }
        Some(reference) => return Ok(json!({ "reference": reference.to_string() })),
        None => {
            let mut text = String::new();
            std::io::stdin().lock().read_to_string(&mut text).context("standard input can't be read")?;
            text.strip_suffix('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).unwrap_or(&text).to_owned()
        }
    };
    if value.is_empty() {
        bail!("standard input has no secret: write it there, or say with --secret where it is");
    }
    Ok(json!({ "value": value }))
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
