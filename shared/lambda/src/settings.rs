//! Settings, from the environment's variables. A function names those that it needs; all that are missing or wrong are told at once.

use std::{env, time::Duration};

use transship_model::{EventType, Role, SecretRef};

/// A variable of the environment.
#[derive(Debug, Clone, Copy)]
pub struct Setting<T> {
    name: &'static str,
    /// What it is, for whoever has to set it.
    what: &'static str,
    default: Option<&'static str>,
    parse: fn(&str) -> Option<T>,
}

/// The name of a DynamoDB table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableName(pub(crate) String);

/// The URL of an SQS queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueUrl(pub(crate) String);

/// The name of a resource in AWS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arn(pub(crate) String);

impl Arn {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What the names of all secrets begin with that a deployment may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretPrefix(pub(crate) String);

/// The table.
pub const TABLE: Setting<TableName> =
    Setting { name: "TRANSSHIP_TABLE", what: "the name of the DynamoDB table", default: None, parse: table_name };
/// The queue of jobs.
pub const JOBS: Setting<QueueUrl> =
    Setting { name: "TRANSSHIP_JOBS_URL", what: "the URL of the SQS queue for jobs (FIFO)", default: None, parse: fifo_url };
/// The queue of the log's events.
pub const EVENTS: Setting<QueueUrl> = Setting {
    name: "TRANSSHIP_EVENTS_URL",
    what: "the URL of the SQS queue for the log's events",
    default: None,
    parse: queue_url,
};
/// The queue of notifications.
pub const NOTIFICATIONS: Setting<QueueUrl> = Setting {
    name: "TRANSSHIP_NOTIFICATIONS_URL",
    what: "the URL of the SQS queue for notifications",
    default: None,
    parse: queue_url,
};
/// The topic for subscribers outside.
pub const TOPIC: Setting<Arn> = Setting {
    name: "TRANSSHIP_TOPIC_ARN",
    what: "the ARN of the SNS topic for announcements",
    default: None,
    parse: topic_arn,
};
/// Which ends of resources the topic is told, besides the ends of tasks.
pub const TOPIC_RESOURCES: Setting<Vec<EventType>> = Setting {
    name: "TRANSSHIP_TOPIC_RESOURCES",
    what: "which resources the topic is told of: none, failed, or all",
    default: Some("none"),
    parse: resource_events,
};
/// The queue of jobs that nobody could do.
pub const DEAD_LETTERS: Setting<Arn> = Setting {
    name: "TRANSSHIP_DEAD_LETTERS_ARN",
    what: "the ARN of the jobs' dead-letter queue",
    default: None,
    parse: queue_arn,
};
/// Where secrets are.
pub const SECRETS: Setting<SecretPrefix> = Setting {
    name: "TRANSSHIP_SECRET_PREFIX",
    what: "what the names of the deployment's secrets begin with, and a slash",
    default: Some("transship/"),
    parse: secret_prefix,
};
/// Where the API puts secrets that it is given: what [`SECRETS`] is for those who read them.
pub const REGISTRY_SECRETS: Setting<SecretPrefix> = Setting {
    name: "TRANSSHIP_REGISTRY_SECRET_PREFIX",
    what: "what the names of registries' secrets begin with, and a slash",
    default: Some("transship/"),
    parse: secret_prefix,
};
/// The token that the API asks its callers for.
pub const API_TOKEN: Setting<SecretRef> = Setting {
    name: "TRANSSHIP_API_TOKEN",
    what: "where the API's token is, as in secretsmanager:api-token",
    default: None,
    parse: secret,
};

/// What those may do in the API whom IAM lets in.
pub const IAM_ROLE: Setting<Option<Role>> = Setting {
    name: "TRANSSHIP_IAM_ROLE",
    what: "what callers may do whom IAM lets in: viewer, operator, admin, or none",
    default: Some("none"),
    parse: iam_role,
};

/// How long tasks are kept after their beginning.
pub const KEEP_TASKS: Setting<Duration> = Setting {
    name: "TRANSSHIP_KEEP_TASKS",
    what: "the number of days that tasks are kept, 15 to 3650",
    default: Some("90"),
    parse: days,
};

/// All settings that are missing or wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the function's environment: {}", problems.join("; "))]
pub struct SettingsError {
    problems: Vec<String>,
}

/// One setting or several (a tuple), which are read together.
pub trait Settings: Sized {
    /// What they are.
    type Values;

    /// Reads them by `look_up`; what is missing or wrong is put to `problems`, and then there are no values.
    fn collect(self, look_up: &dyn Fn(&str) -> Option<String>, problems: &mut Vec<String>) -> Option<Self::Values>;

    /// Reads them from the process's environment.
    ///
    /// # Errors
    /// All that are missing or wrong, each with what it should be.
    fn read(self) -> Result<Self::Values, SettingsError> {
        let mut problems = Vec::new();
        self.collect(&|name| env::var(name).ok(), &mut problems).ok_or(SettingsError { problems })
    }
}

impl<T> Settings for Setting<T> {
    type Values = T;

    fn collect(self, look_up: &dyn Fn(&str) -> Option<String>, problems: &mut Vec<String>) -> Option<T> {
        let Self { name, what, default, parse } = self;
        let Some(value) = look_up(name).filter(|value| !value.is_empty()).or_else(|| default.map(str::to_owned)) else {
            problems.push(format!("{name} is missing: set it to {what}"));
            return None;
        };
        let value = parse(&value);
        if value.is_none() {
            // Without the value: somebody may have written the secret itself.
            problems.push(format!("{name} is wrong: set it to {what}"));
        }
        value
    }
}

/// All of a tuple are looked at before any problem is told.
macro_rules! together {
    ($($name:ident),+) => {
        impl<$($name: Settings),+> Settings for ($($name,)+) {
            type Values = ($($name::Values,)+);

            #[expect(non_snake_case, reason = "a value is named like its type")]
            fn collect(self, look_up: &dyn Fn(&str) -> Option<String>, problems: &mut Vec<String>) -> Option<Self::Values> {
                let ($($name,)+) = self;
                $(let $name = $name.collect(look_up, problems);)+
                Some(($($name?,)+))
            }
        }
    };
}

together!(A, B);
together!(A, B, C);
together!(A, B, C, D);
together!(A, B, C, D, E);
together!(A, B, C, D, E, F);
together!(A, B, C, D, E, F, G);
together!(A, B, C, D, E, F, G, H);

fn table_name(value: &str) -> Option<TableName> {
    let is_known = |c: char| c.is_ascii_alphanumeric() || "_.-:/".contains(c);
    value.chars().all(is_known).then(|| TableName(value.to_owned()))
}

fn queue_url(value: &str) -> Option<QueueUrl> {
    let rest = value.strip_prefix("https://").or_else(|| value.strip_prefix("http://"))?;
    let (host, path) = rest.split_once('/')?;
    (!host.is_empty() && !path.is_empty()).then(|| QueueUrl(value.to_owned()))
}

fn fifo_url(value: &str) -> Option<QueueUrl> {
    queue_url(value).filter(|_| value.ends_with(".fifo"))
}

fn topic_arn(value: &str) -> Option<Arn> {
    arn(value, "sns")
}

fn queue_arn(value: &str) -> Option<Arn> {
    arn(value, "sqs")
}

fn resource_events(value: &str) -> Option<Vec<EventType>> {
    match value {
        "none" => Some(Vec::new()),
        "failed" => Some(vec![EventType::ResourceFailed]),
        "all" => Some(EventType::ALL.into_iter().filter(|event| !event.is_of_task()).collect()),
        _ => None,
    }
}

/// `arn:partition:service:region:account:name`
fn arn(value: &str, service: &str) -> Option<Arn> {
    let parts: Vec<&str> = value.split(':').collect();
    let is_of_service = matches!(parts[..], ["arn", _, of, _, _, name] if of == service && !name.is_empty());
    is_of_service.then(|| Arn(value.to_owned()))
}

/// What a queue still has, which is for up to two weeks, must not be forgotten meanwhile.
fn days(value: &str) -> Option<Duration> {
    let days: u64 = value.parse().ok().filter(|days| (15..=3650).contains(days))?;
    Some(Duration::from_secs(days * 24 * 3600))
}

fn secret_prefix(value: &str) -> Option<SecretPrefix> {
    let name = value.strip_suffix('/')?;
    let is_known = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    (!name.is_empty() && name.chars().all(is_known)).then(|| SecretPrefix(value.to_owned()))
}

/// Only what a function can read: the other forms are for a process on a machine of one's own.
fn secret(value: &str) -> Option<SecretRef> {
    value.parse().ok().filter(|secret| matches!(secret, SecretRef::SecretsManager(_) | SecretRef::Parameter(_)))
}

fn iam_role(value: &str) -> Option<Option<Role>> {
    if value == "none" { Some(None) } else { value.parse().ok().map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<S: Settings>(settings: S, environment: &[(&str, &str)]) -> Result<S::Values, Vec<String>> {
        let mut problems = Vec::new();
        let look_up = |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        settings.collect(&look_up, &mut problems).ok_or(problems)
    }

    #[test]
    fn all_that_is_missing_or_wrong_is_told_at_once() {
        let environment =
            [("TRANSSHIP_JOBS_URL", "jobs"), ("TRANSSHIP_EVENTS_URL", "https://sqs.eu-central-1.amazonaws.com/1/events")];
        let problems = read((TABLE, JOBS, EVENTS), &environment).unwrap_err();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].starts_with("TRANSSHIP_TABLE is missing"), "{problems:?}");
        assert!(problems[1].starts_with("TRANSSHIP_JOBS_URL is wrong: set it to the URL"), "{problems:?}");
    }

    #[test]
    fn a_queue_of_jobs_that_is_not_fifo_would_have_two_writers_for_a_target() {
        let standard = "https://sqs.eu-central-1.amazonaws.com/1/jobs";
        assert!(read(JOBS, &[("TRANSSHIP_JOBS_URL", standard)]).is_err());
        assert!(read(JOBS, &[("TRANSSHIP_JOBS_URL", &format!("{standard}.fifo"))]).is_ok());
    }

    #[test]
    fn what_has_a_default_need_not_be_set() {
        assert_eq!(read(SECRETS, &[]), Ok(SecretPrefix("transship/".into())));
        assert_eq!(read(SECRETS, &[("TRANSSHIP_SECRET_PREFIX", "")]), Ok(SecretPrefix("transship/".into())));
        assert!(read(SECRETS, &[("TRANSSHIP_SECRET_PREFIX", "/")]).is_err());
    }

    /// Would break: a log that forgets what is still being tried, or that a typing mistake keeps for ever.
    #[test]
    fn tasks_are_kept_for_a_number_of_days() {
        let read = |value: &str| read(KEEP_TASKS, &[("TRANSSHIP_KEEP_TASKS", value)]).ok().map(|keep| keep.as_secs() / 86_400);
        assert_eq!(
            ["", "15", "400", "14", "0", "9999", "90d"].map(read),
            [Some(90), Some(15), Some(400), None, None, None, None]
        );
    }

    #[test]
    fn an_arn_of_something_else_is_wrong() {
        assert!(read(TOPIC, &[("TRANSSHIP_TOPIC_ARN", "arn:aws:sns:eu-central-1:123456789012:transship")]).is_ok());
        assert!(read(TOPIC, &[("TRANSSHIP_TOPIC_ARN", "arn:aws:sqs:eu-central-1:123456789012:transship")]).is_err());
    }

    #[test]
    fn the_topic_is_told_of_no_resources_unless_that_is_asked_for() {
        let told = |value: &str| read(TOPIC_RESOURCES, &[("TRANSSHIP_TOPIC_RESOURCES", value)]).ok().map(|told| told.len());
        assert_eq!(["", "none", "failed", "all", "some"].map(told), [Some(0), Some(0), Some(1), Some(5), None]);
    }

    #[test]
    fn a_token_is_a_reference_and_never_the_secret_itself() {
        let token = read(API_TOKEN, &[("TRANSSHIP_API_TOKEN", "secretsmanager:api-token")]);
        assert_eq!(token, Ok("secretsmanager:api-token".parse().unwrap()));
        for wrong in ["env:TOKEN", "hunter2"] {
            let problems = read(API_TOKEN, &[("TRANSSHIP_API_TOKEN", wrong)]).unwrap_err();
            assert!(!problems[0].contains("hunter2"), "{problems:?}");
        }
    }
}
