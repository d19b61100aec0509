//! The loop: the runtime's next event, the function's answer to it, one line of metrics.

use std::{
    env,
    io::{self, Write as _},
    process::ExitCode,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use lambda_runtime::{Context, LambdaEvent, Runtime, service_fn};
use serde_json::Value;
use tokio::time::Instant;
use tracing::{Instrument as _, Span};
use transship_model::{RuleId, TaskId};

use crate::{Answer, Event, Metric, Unhandled, log, metrics::Counts, settings::SettingsError};

/// A function: what it does with an event.
pub trait Function {
    /// Deals with an event. Whatever is not done when this returns does not happen: the environment may be frozen, or gone.
    ///
    /// # Errors
    /// [`Unhandled`]: the invocation fails, and all its messages come again.
    fn handle(&self, event: Event, call: &Call) -> impl Future<Output = Result<Answer, Unhandled>>;
}

/// Why a function can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What it needs is not in its environment.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Something else that it needs is not there.
    #[error("{0}")]
    Other(String),
}

/// One invocation.
pub struct Call {
    began: Instant,
    deadline: Instant,
    request: String,
    qualifier: Option<String>,
    counts: Mutex<Counts>,
}

impl Call {
    fn new(context: &Context) -> Self {
        let left = context.deadline().duration_since(SystemTime::now()).unwrap_or_default();
        let began = Instant::now();
        let qualifier = qualifier(&context.invoked_function_arn);
        Self { began, deadline: began + left, request: context.request_id.clone(), qualifier, counts: Mutex::default() }
    }

    /// The invocation's ID.
    pub fn request(&self) -> &str {
        &self.request
    }

    /// The alias or version that was invoked; `None` for the function itself. Each URL is one's.
    pub fn qualifier(&self) -> Option<&str> {
        self.qualifier.as_deref()
    }

    /// When the process is killed, if it has not answered.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Adds to a metric.
    pub fn count(&self, metric: Metric, amount: u64) {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).add(metric, amount);
    }

    /// Says how it ended, for the metrics; one of a few words.
    pub fn ended(&self, outcome: &'static str) {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).end(outcome);
    }

    /// Says what it is about, for the lines of the log from here on and the one that ends it.
    pub fn concerns(&self, task: &TaskId, rule: RuleId) {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).concern(task.clone(), rule);
        Span::current().record("task", task.as_str()).record("rule", rule.0);
    }
}

/// `arn:aws:lambda:REGION:ACCOUNT:function:NAME:QUALIFIER`
fn qualifier(arn: &str) -> Option<String> {
    arn.split(':').nth(7).filter(|qualifier| !qualifier.is_empty()).map(str::to_owned)
}

/// Starts a function and lets it deal with events for as long as the environment lives. A function that can't start says why in its log.
pub async fn run<F: Function>(start: impl Future<Output = Result<F, StartError>>) -> ExitCode {
    log::start();
    let is_lambda = env::var_os("AWS_LAMBDA_RUNTIME_API").is_some();
    if !is_lambda {
        tracing::error!("this program is started by AWS Lambda; `transship serve` is all of them on a machine of one's own");
        return ExitCode::FAILURE;
    }
    let function = match start.await {
        Ok(function) => function,
        Err(error) => {
            tracing::error!(%error, "the function can't start");
            return ExitCode::FAILURE;
        }
    };
    let name = env::var("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_default();
    let service = service_fn(|event: LambdaEvent<Value>| {
        let (function, name, call) = (&function, &name, Call::new(&event.context));
        async move {
            let answer = handle(function, event.payload, &call).instrument(log::span(&call.request)).await;
            call.tell(name);
            answer
        }
    });
    match Runtime::new(service).run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the runtime");
            ExitCode::FAILURE
        }
    }
}

async fn handle(function: &impl Function, payload: Value, call: &Call) -> Result<Answer, Unhandled> {
    let answer = match Event::read(payload) {
        Ok(Ok(event)) => function.handle(event, call).await,
        Ok(Err(refusal)) => Ok(Answer::response(refusal)),
        Err(unreadable) => Err(unreadable),
    };
    match &answer {
        Ok(Answer::Response(response)) => match response.status_code {
            200..400 => call.count(Metric::Accepted, 1),
            400..500 => call.count(Metric::Refused, 1),
            _ => call.count(Metric::Unanswered, 1),
        },
        Ok(Answer::Batch(again)) => match again.batch_item_failures.len() {
            0 => {}
            again => call.count(Metric::Retries, again as u64),
        },
        Err(error) => tracing::error!(%error, "the event was not dealt with"),
    }
    answer
}

impl Call {
    /// Writes the line of metrics.
    fn tell(self, function: &str) {
        let took: Duration = self.began.elapsed();
        let counts = self.counts.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = counts.line(Timestamp::now(), function, &self.request, took) {
            // Standard output is Lambda's: if it is gone, so is the environment.
            let _ = writeln!(io::stdout().lock(), "{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would break: an invocation of the function itself that is taken for one of an alias.
    #[test]
    fn only_a_qualified_name_has_a_qualifier() {
        assert_eq!(qualifier("arn:aws:lambda:eu-central-1:123456789012:function:iam:iam").as_deref(), Some("iam"));
        for plain in [
            "arn:aws:lambda:eu-central-1:123456789012:function:iam",
            "arn:aws:lambda:eu-central-1:123456789012:function:iam:",
            "",
        ] {
            assert_eq!(qualifier(plain), None, "{plain}");
        }
    }
}
