//! `transship`: everything in one process, and a client of the API.

mod client;
mod commands;
mod config;
mod demo;
mod output;
mod progress;
mod secrets;
mod serve;
mod time;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Keeps container registries in step: a push to one is carried to every other that a rule names.
#[derive(Debug, Parser)]
#[command(
    version,
    max_term_width = 120,
    propagate_version = true,
    after_help = "Commands that talk to the API find it by TRANSSHIP_API, and it lets in who has the token that TRANSSHIP_TOKEN is set to. \
                  Every option with [env: …] can be set so.\n\n\
                  Exit status, with a line on standard error that says why:\n\
                  \x20 0  it is done\n\
                  \x20 1  it did not succeed: a task failed, a copy was refused, a file has mistakes …\n\
                  \x20 2  the command line is not understood\n\
                  \x20 3  the API refused it: who may do it, or what is there, forbids it\n\
                  \x20 4  the API knows of no such thing\n\
                  \x20 5  the API did not answer, or could not do it now"
)]
struct Arguments {
    /// How the process's own log is written, to standard error
    #[arg(
        long,
        global = true,
        env = "TRANSSHIP_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text",
        display_order = 100
    )]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    /// Lines for people
    Text,
    /// A JSON object a line
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show all of it in a few seconds: two registries in this process, a push, a copy, and the proof
    Demo(commands::demo::Arguments),
    /// Run webhook, workers, logger and API in one process
    Serve(commands::serve::Arguments),
    /// Check a configuration file and name every mistake in it
    Check(commands::check::Arguments),
    /// Bring instances, rules and subscriptions to what a configuration file says, through the API
    Apply(commands::apply::Arguments),
    /// List, show, make, change or delete instances, and give them secrets
    #[command(subcommand)]
    Instances(commands::instances::Command),
    /// List, show, make, change, enable, disable or delete rules
    #[command(subcommand)]
    Rules(commands::rules::Command),
    /// List, show, cancel and retry tasks
    Tasks(Box<commands::tasks::Arguments>),
    /// Show one task and its resources: the same as tasks show
    Task(commands::tasks::ShowArguments),
    /// Synchronise everything that a rule selects, now
    Sync(commands::tasks::SyncArguments),
    /// Show what a rule would copy now, and what it would skip and why; nothing is moved
    Preview(commands::preview::Arguments),
    /// Explain why something was, or was not, synchronised
    Explain(commands::explain::Arguments),
    /// Copy one artifact by hand, without rules and without a server
    Copy(commands::copy::Arguments),
    /// Say who is told of what, test it, and see what came of it
    Subscriptions(commands::subscriptions::Arguments),
    /// Make, list and revoke the tokens by which the API lets callers in
    Tokens(commands::tokens::Arguments),
    /// List who changed what, the newest first
    Audit(commands::audit::Arguments),
    /// Print the API's own document: OpenAPI 3.1
    Openapi(commands::openapi::Arguments),
    /// Print what a shell needs to complete this command line
    Completions(commands::completions::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_log(arguments.log_format, &arguments.command);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let result = runtime.block_on(async {
        match arguments.command {
            Command::Demo(arguments) => commands::demo::run(arguments).await,
            Command::Serve(arguments) => commands::serve::run(arguments).await,
            Command::Check(arguments) => commands::check::run(arguments),
            Command::Apply(arguments) => commands::apply::run(arguments).await,
            Command::Instances(command) => commands::instances::run(command).await,
            Command::Rules(command) => commands::rules::run(command).await,
            Command::Tasks(arguments) => commands::tasks::run(*arguments).await,
            Command::Task(arguments) => commands::tasks::show(arguments).await,
            Command::Sync(arguments) => commands::tasks::sync(arguments).await,
            Command::Preview(arguments) => commands::preview::run(arguments).await,
            Command::Explain(arguments) => commands::explain::run(arguments).await,
            Command::Copy(arguments) => commands::copy::run(arguments).await,
            Command::Subscriptions(arguments) => commands::subscriptions::run(arguments).await,
            Command::Tokens(arguments) => commands::tokens::run(arguments).await,
            Command::Audit(arguments) => commands::audit::run(arguments).await,
            Command::Openapi(arguments) => commands::openapi::run(arguments).await,
            Command::Completions(arguments) => commands::completions::run(&arguments),
        }
    });
    // A blocking read of a broken disk must not keep a process that was told to end.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// One line that says what is wrong, or the lines of a list of mistakes; and the exit status.
fn fail(error: &anyhow::Error) -> ExitCode {
    if error.is::<config::LoadError>() {
        // It begins with the name of the file, which editors and terminals make links of.
        eprintln!("{}", output::clean(&error.to_string()));
    } else {
        eprintln!("transship: {}", output::clean(&format!("{error:#}")));
    }
    ExitCode::from(status(error))
}

/// The exit status, as `--help` explains it.
fn status(error: &anyhow::Error) -> u8 {
    if error.is::<client::Unanswered>() {
        return 5;
    }
    match error.downcast_ref::<client::Refusal>().map(|client::Refusal(problem)| problem.status) {
        None => 1,
        Some(404) => 4,
        Some(500..) => 5,
        Some(_) => 3,
    }
}

/// How much AWS's SDK says at most.
const SDK_LIMIT: &[&str] = &["aws_config=info", "aws_runtime=info", "aws_sigv4=info", "aws_smithy_runtime=info"];

fn start_log(format: LogFormat, command: &Command) {
    // Commands that people wait for say what they have to say themselves.
    let default = if matches!(command, Command::Serve(_)) {
        "info,rustls_platform_verifier=off"
    } else {
        "error,rustls_platform_verifier=off"
    };
    let mut filter = tracing_subscriber::EnvFilter::try_from_env("TRANSSHIP_LOG").unwrap_or_else(|_| default.into());
    if filter.max_level_hint() == Some(tracing::level_filters::LevelFilter::TRACE) {
        // At that level AWS's SDK writes down whole answers, passwords and all.
        for limit in SDK_LIMIT.iter().filter_map(|limit| limit.parse().ok()) {
            filter = filter.add_directive(limit);
        }
    }
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::CommandFactory as _;
    use transship_model::Problem;

    use super::*;
    use crate::client::{Refusal, Unanswered};

    /// The commands that do what operations of the API do, by the operations' IDs.
    const COMMANDS: &[(&str, &str)] = &[
        ("cancelTask", "tasks cancel"),
        ("changeSubscription", "subscriptions change"),
        ("createToken", "tokens create"),
        ("deleteInstance", "instances delete"),
        ("deleteRule", "rules delete"),
        ("deleteSecret", "instances delete-secret"),
        ("deleteSubscription", "subscriptions delete"),
        ("enableSubscription", "subscriptions enable"),
        ("explain", "explain"),
        ("listAudit", "audit"),
        ("listDeliveries", "subscriptions deliveries"),
        ("listInstances", "instances list"),
        ("listResources", "tasks show"),
        ("listRules", "rules list"),
        ("listSubscriptions", "subscriptions list"),
        ("listTasks", "tasks list"),
        ("listTasksOfRule", "tasks list"),
        ("listTokens", "tokens list"),
        ("patchInstance", "instances change"),
        ("patchRule", "rules change"),
        ("preview", "preview"),
        ("previewRule", "preview"),
        ("putInstance", "instances create"),
        ("putRule", "rules create"),
        ("putSecret", "instances set-secret"),
        ("putSubscription", "subscriptions create"),
        ("readDelivery", "subscriptions delivery"),
        ("readDocument", "openapi"),
        ("readInstance", "instances show"),
        ("readPreview", "preview"),
        ("readRule", "rules show"),
        ("readSubscription", "subscriptions show"),
        ("readTask", "task"),
        ("readToken", "tokens show"),
        ("redeliver", "subscriptions redeliver"),
        ("retryTask", "tasks retry"),
        ("revokeToken", "tokens revoke"),
        ("syncRule", "sync"),
        ("testSubscription", "subscriptions test"),
        // With --follow.
        ("watchTask", "task"),
    ];

    /// Would break: something that the API can do and the command line can't; a command that was renamed, and is named here as it was.
    #[test]
    fn every_operation_of_the_api_has_a_command() {
        let document = transship_api::Api::document();
        let paths = document["paths"].as_object().unwrap().values();
        let operations = paths.flat_map(|item| item.as_object().unwrap().values());
        let mut operations: Vec<&str> = operations.filter_map(|operation| operation["operationId"].as_str()).collect();
        operations.sort_unstable();
        let known: BTreeMap<&str, &str> = COMMANDS.iter().copied().collect();
        assert_eq!(
            operations,
            known.keys().copied().collect::<Vec<_>>(),
            "an operation without a command, or one that is gone"
        );
        let all = Arguments::command();
        for command in known.values() {
            let found = command.split(' ').try_fold(&all, |command, word| command.find_subcommand(word));
            assert!(found.is_some_and(|found| !found.has_subcommands()), "{command}");
        }
    }

    /// Would break: scripts that go by the exit status; a reason that context hides.
    #[test]
    fn each_kind_of_failure_has_its_status() {
        let refused = |status| anyhow::Error::from(Refusal(Problem::new(status, "no")));
        assert_eq!([401, 403, 409, 412, 422, 404, 500, 503].map(|code| status(&refused(code))), [3, 3, 3, 3, 3, 4, 5, 5]);
        assert_eq!(status(&anyhow::Error::from(Unanswered("nobody there".into())).context("a step").context("a plan")), 5);
        assert_eq!(status(&anyhow::anyhow!("a task failed")), 1);
    }
}
