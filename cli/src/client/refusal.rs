//! What came instead of an answer, in the words of the command line.

use std::fmt;

use transship_model::{Mistake, Problem};

/// What the API answered instead of what it was asked for.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) Problem);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The detail tells the first of several.
        match &self.0.errors[..] {
            [] | [_] => f.write_str(&in_commands(&self.0.detail)),
            errors => errors.iter().enumerate().try_for_each(|(at, Mistake { pointer, detail })| {
                write!(f, "{}{pointer}: {}", if at == 0 { "" } else { "; " }, in_commands(detail))
            }),
        }
    }
}

impl std::error::Error for Refusal {}

/// No answer, or one that is not the API's.
#[derive(Debug)]
pub(crate) struct Unanswered(pub(crate) String);

impl fmt::Display for Unanswered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unanswered {}

/// What the API says, with the commands for the requests that it names: `GET /v1/tokens` is `transship tokens list`.
fn in_commands(detail: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    for word in detail.split(' ') {
        // What stands behind the path is not part of it.
        let path = word.trim_end_matches([')', ',', ';', ':']);
        let command = words.last().and_then(|method| {
            let opening = method.len() - method.trim_start_matches('(').len();
            Some((opening, command(&method[opening..], path.strip_prefix("/v1/")?)?))
        });
        match (command, words.last_mut()) {
            (Some((opening, command)), Some(method)) => {
                method.truncate(opening);
                method.push_str(&format!("`transship {command}`{}", &word[path.len()..]));
            }
            _ => words.push(word.to_owned()),
        }
    }
    words.join(" ")
}

/// The command that makes a request.
fn command(method: &str, path: &str) -> Option<String> {
    let segments: Vec<&str> = path.split('/').collect();
    Some(match (method, &segments[..]) {
        ("GET", ["instances"]) => "instances list".to_owned(),
        ("GET", ["instances", instance, "rules"]) => format!("rules list {instance}"),
        ("POST", ["instances", instance, "rules", rule, "sync"]) => format!("sync {instance}/{rule}"),
        ("GET", ["subscriptions"]) => "subscriptions list".to_owned(),
        ("GET", ["subscriptions", name, "deliveries"]) => format!("subscriptions deliveries {name}"),
        ("POST", ["subscriptions", name, "enable"]) => format!("subscriptions enable {name}"),
        ("GET", ["tokens"]) => "tokens list".to_owned(),
        ("GET", ["tasks", task]) => format!("task {task}"),
        ("POST", ["tasks", task, "cancel"]) => format!("tasks cancel {task}"),
        ("POST", ["tasks", task, "retry"]) => format!("tasks retry {task}"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would break: people at a terminal who are told of requests; a message that loses what stood around them.
    #[test]
    fn requests_that_the_api_names_are_commands() {
        let cases = [
            (
                "there is no instance x: GET /v1/instances lists them",
                "there is no instance x: `transship instances list` lists them",
            ),
            ("no rule y: GET /v1/instances/x/rules lists them", "no rule y: `transship rules list x` lists them"),
            ("enable it first (POST /v1/subscriptions/ci/enable)", "enable it first (`transship subscriptions enable ci`)"),
            ("wait for it, or POST /v1/tasks/1-0a/cancel", "wait for it, or `transship tasks cancel 1-0a`"),
            ("POST /v1/instances/a/rules/b/sync starts it", "`transship sync a/b` starts it"),
            ("GET /v1/nothing is no path", "GET /v1/nothing is no path"),
            ("nothing to do with it", "nothing to do with it"),
            ("", ""),
        ];
        for (said, wanted) in cases {
            assert_eq!(in_commands(said), wanted);
        }
    }
}
