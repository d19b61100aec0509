//! Log lines: a JSON object each, with the request's ID, and the IDs of task and rule where there are.

use std::{env, io};

use tracing::Span;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// Says nothing more than this, whatever is asked for: at the lowest level AWS's SDK writes down whole answers, and the runtime whole
/// events, secrets and all.
const LIMITS: [&str; 6] = [
    "aws_config=info",
    "aws_runtime=info",
    "aws_sigv4=info",
    "aws_smithy_runtime=info",
    "lambda_runtime=info",
    "lambda_runtime_api_client=info",
];

/// Begins to log to standard output, at the level that `TRANSSHIP_LOG` says; `info` by default.
pub(crate) fn start() {
    let (mut filter, problem) = match env::var("TRANSSHIP_LOG").ok().filter(|text| !text.is_empty()).map(EnvFilter::try_new) {
        Some(Ok(filter)) => (filter, None),
        Some(Err(problem)) => (EnvFilter::new("info"), Some(problem)),
        None => (EnvFilter::new("info"), None),
    };
    // What it says of a failure is said already, with the request's ID.
    for silence in ["lambda_runtime::layers=off"].iter().filter_map(|silence| silence.parse().ok()) {
        filter = filter.add_directive(silence);
    }
    if filter.max_level_hint() > Some(LevelFilter::INFO) {
        for limit in LIMITS.iter().filter_map(|limit| limit.parse().ok()) {
            filter = filter.add_directive(limit);
        }
    }
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_writer(io::stdout);
    lines.json().flatten_event(true).with_span_list(false).init();
    // A line that can be found by its request's ID, in the place of several lines of text.
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "a bug")));
    if let Some(problem) = problem {
        tracing::warn!(%problem, "TRANSSHIP_LOG is not understood: info is logged, and above");
    }
}

/// What all lines of an invocation have in common. Which task and rule it is about may be told later.
pub(crate) fn span(request: &str) -> Span {
    tracing::error_span!("invocation", request, task = tracing::field::Empty, rule = tracing::field::Empty)
}
