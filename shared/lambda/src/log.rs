//! Log lines: a JSON object each, with the request's ID, and the IDs of task and rule where there are.

use std::{env, io};

use tracing::{Level, Metadata, Span};
use tracing_subscriber::{EnvFilter, filter::filter_fn, layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Begins to log to standard output, at the level that `TRANSSHIP_LOG` says; `info` by default.
pub(crate) fn start() {
    let (filter, problem) = match env::var("TRANSSHIP_LOG").ok().filter(|text| !text.is_empty()).map(EnvFilter::try_new) {
        Some(Ok(filter)) => (filter, None),
        Some(Err(problem)) => (EnvFilter::new("info"), Some(problem)),
        None => (EnvFilter::new("info"), None),
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_writer(io::stdout);
    lines.json().flatten_event(true).with_span_list(false).finish().with(filter_fn(may_be_told)).init();
    // A line that can be found by its request's ID, in the place of several lines of text.
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "a bug")));
    if let Some(problem) = problem {
        tracing::warn!(%problem, "TRANSSHIP_LOG is not understood: info is logged, and above");
    }
}

/// Whatever is asked for: at the lowest levels AWS's SDK writes down whole answers, and the runtime whole events, secrets and all. What
/// the runtime says of a failure is said already, with the request's ID.
fn may_be_told(what: &Metadata<'_>) -> bool {
    let is_ours = what.target().starts_with("transship");
    is_ours || (*what.level() <= Level::INFO && !what.target().starts_with("lambda_runtime::layers"))
}

/// What all lines of an invocation have in common. Which task and rule it is about may be told later.
pub(crate) fn span(request: &str) -> Span {
    tracing::error_span!("invocation", request, task = tracing::field::Empty, rule = tracing::field::Empty)
}
