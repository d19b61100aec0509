//! Metrics of CloudWatch, in its embedded format: one line of the log, from which CloudWatch makes them without being called.
//!
//! <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use transship_model::{RuleId, TaskId};

/// The namespace of all metrics.
const NAMESPACE: &str = "transship";

/// What is counted. Each has the dimension `FunctionName`; where a job or a delivery ended there is `Outcome` besides. Tasks, rules and
/// instances are no dimensions: each would be a metric that is paid for; they are in the line beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// HTTP requests that were answered with 2xx.
    Accepted,
    /// HTTP requests that were answered with 4xx.
    Refused,
    /// HTTP requests that were answered with 5xx.
    Unanswered,
    /// Jobs that a worker has had in hand.
    Jobs,
    /// Answers of registries that asked for less: 429, or 503 with the time to wait.
    Throttled,
    /// How long requests were held back because of that, all of them added up.
    ThrottleWait,
    /// Messages that are to come again.
    Retries,
    /// Events that the logger has taken in.
    Events,
    /// Tasks that have ended and in which nothing failed.
    TasksSucceeded,
    /// Tasks that have ended and of which a part failed.
    TasksPartlyFailed,
    /// Tasks that have ended and in which everything failed.
    TasksFailed,
    /// Tasks that were ended before their time.
    TasksCancelled,
    /// Resources that the log has noted as copied.
    Copied,
    /// Likewise as unchanged.
    Unchanged,
    /// Likewise as deleted.
    Deleted,
    /// Likewise as skipped.
    Skipped,
    /// Likewise as failed.
    Failed,
    /// Bytes sent to targets for these resources.
    BytesMoved,
    /// Bytes that targets had already, or mounted.
    BytesSaved,
    /// Jobs that nobody could do.
    DeadLetters,
    /// Notifications that a notifier has had in hand.
    Deliveries,
    /// Subscriptions that were disabled because their receivers take nothing.
    SubscriptionsDisabled,
}

impl Metric {
    fn unit(self) -> &'static str {
        match self {
            Self::BytesMoved | Self::BytesSaved => "Bytes",
            Self::ThrottleWait => "Milliseconds",
            _ => "Count",
        }
    }
}

/// What has been counted in one invocation.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    metrics: BTreeMap<Metric, u64>,
    outcome: Option<&'static str>,
    about: Option<(TaskId, RuleId)>,
}

impl Counts {
    /// Nothing is told of what was nothing: each metric is paid for in the hours in which it is told.
    pub(crate) fn add(&mut self, metric: Metric, amount: u64) {
        if amount == 0 {
            return;
        }
        *self.metrics.entry(metric).or_default() += amount;
    }

    pub(crate) fn end(&mut self, outcome: &'static str) {
        self.outcome = Some(outcome);
    }

    pub(crate) fn concern(&mut self, task: TaskId, rule: RuleId) {
        self.about = Some((task, rule));
    }

    /// The line, unless nothing has been counted.
    pub(crate) fn line(self, at: Timestamp, function: &str, request: &str, took: Duration) -> Option<Value> {
        let Self { metrics, outcome, about } = self;
        if metrics.is_empty() {
            return None;
        }
        let mut line = Map::new();
        let mut definitions = vec![json!({ "Name": "Duration", "Unit": "Milliseconds" })];
        line.insert("Duration".into(), json!(took.as_secs_f64() * 1000.0));
        for (metric, amount) in metrics {
            let name = format!("{metric:?}");
            definitions.push(json!({ "Name": name, "Unit": metric.unit() }));
            line.insert(name, json!(amount));
        }
        let mut dimensions = vec![json!(["FunctionName"])];
        if let Some(outcome) = outcome {
            dimensions.push(json!(["FunctionName", "Outcome"]));
            line.insert("Outcome".into(), json!(outcome));
        }
        line.insert("FunctionName".into(), json!(function));
        line.insert("request".into(), json!(request));
        if let Some((task, rule)) = about {
            line.insert("task".into(), json!(task));
            line.insert("rule".into(), json!(rule));
        }
        let directive = json!({ "Namespace": NAMESPACE, "Dimensions": dimensions, "Metrics": definitions });
        line.insert("_aws".into(), json!({ "Timestamp": at.as_millisecond(), "CloudWatchMetrics": [directive] }));
        Some(line.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(counts: Counts) -> Option<Value> {
        counts.line(Timestamp::from_second(1).unwrap(), "stack-worker", "r-1", Duration::from_millis(1500))
    }

    #[test]
    fn what_was_not_counted_makes_no_line() {
        assert_eq!(line(Counts::default()), None);
    }

    /// CloudWatch drops a line without a word if a name in the directive is not in the line.
    #[test]
    fn each_metric_and_dimension_that_the_directive_names_is_in_the_line() {
        let mut counts = Counts::default();
        counts.add(Metric::Jobs, 1);
        counts.add(Metric::BytesMoved, 3);
        counts.add(Metric::BytesMoved, 4);
        counts.end("again");
        let line = line(counts).unwrap();
        assert_eq!((&line["Jobs"], &line["BytesMoved"], &line["Duration"]), (&json!(1), &json!(7), &json!(1500.0)));
        assert_eq!((&line["FunctionName"], &line["Outcome"]), (&json!("stack-worker"), &json!("again")));
        let directive = &line["_aws"]["CloudWatchMetrics"][0];
        assert_eq!((&line["_aws"]["Timestamp"], &directive["Namespace"]), (&json!(1000), &json!("transship")));
        assert_eq!(directive["Dimensions"], json!([["FunctionName"], ["FunctionName", "Outcome"]]));
        let names = directive["Metrics"].as_array().unwrap().iter().map(|metric| metric["Name"].as_str().unwrap());
        for name in names {
            assert!(line[name].is_number(), "{name}");
        }
    }
}
