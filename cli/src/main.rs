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
                  Every option with [env: …] can be set so. The exit status is 0, or 1 if something did not succeed, with one line that \
                  says why; 2 for a command line that is not understood."
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
    /// Bring instances and rules to what a configuration file says, through the API
    Apply(commands::apply::Arguments),
    /// List, show or delete instances
    #[command(subcommand)]
    Instances(commands::instances::Command),
    /// List, show, make, enable, disable or delete rules
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
    /// Print what a shell needs to complete this command line
    Completions(commands::completions::Arguments),
}

/// Something did not succeed that a command was to bring about or wait for; what it was has been printed.
#[derive(Debug)]
struct NotDone;

impl std::fmt::Display for NotDone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not everything succeeded")
    }
}

impl std::error::Error for NotDone {}

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

/// One line that says what is wrong, or the lines of a list of mistakes; and the exit status 1.
fn fail(error: &anyhow::Error) -> ExitCode {
    if error.is::<config::LoadError>() {
        // It begins with the name of the file, which editors and terminals make links of.
        eprintln!("{}", output::clean(&error.to_string()));
    } else if !error.is::<NotDone>() {
        eprintln!("transship: {}", output::clean(&format!("{error:#}")));
    }
    ExitCode::FAILURE
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
