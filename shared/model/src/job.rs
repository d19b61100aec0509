//! Jobs: messages that ask a worker for one step.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Digest, Place, PreviewJob, PushEvent, Repository, TaskId, Told, names::hex, task::TaskHead};

/// One step for a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "job", rename_all = "kebab-case")]
pub enum Job {
    /// Bring one resource to one target.
    Copy(CopyJob),
    /// Put back a digest that an older one had overwritten.
    Restore(RestoreJob),
    /// Find out whether a manifest without a tag of its own, or an attachment tag, belongs to something that targets have.
    Look(LookJob),
    /// Match an event again and send its copies: there are too many for the webhook's answer.
    FanOut(FanOutJob),
    /// List the source of a rule, from where the last step stopped.
    Scan(ScanJob),
    /// Find out what a rule would do now.
    Preview(Box<PreviewJob>),
    /// Make again what failed in another task, from where the last step stopped.
    Retry(RetryJob),
}

/// Bring one resource to one target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyJob {
    /// The task that it belongs to.
    pub task: TaskHead,
    /// Where to look.
    pub source: Place,
    /// What to set. The rule may have another target by the time that the job runs; then the job is over.
    pub target: Place,
    /// What the push was of. Some registries tell of a push before they set its tag: while it is fresh, the tag is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pushed: Option<Digest>,
    /// The push, where it is to be remembered: it is noted at the source before anything there is looked at, because the webhook, which
    /// notes it as well, may not have done that yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Told>,
    /// The manifest whose attachment this is: the copy is made only while the target has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Digest>,
    /// The source's tag was deleted, or may have been: if it is not there, the target's is deleted, too. If it is, it is copied.
    #[serde(default, rename = "deletion", skip_serializing_if = "std::ops::Not::not")]
    pub may_be_deletion: bool,
    /// How often the worker has sent the job on to itself.
    #[serde(default)]
    pub continuation: u32,
}

/// Put back a digest that an older one had overwritten, where rules lead both ways.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreJob {
    /// The tag to mend.
    pub place: Place,
    /// What it should hold.
    pub digest: Digest,
    /// When the older one was set: the same digest may have to be put back more than once.
    pub overwritten_by: Timestamp,
    /// The push that shows it, to be noted first, as in [`CopyJob::told`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Told>,
}

/// Find out whether something pushed belongs to what targets have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookJob {
    /// The push, by digest or by an attachment tag.
    pub event: PushEvent,
}

/// Match an event again and send its copies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FanOutJob {
    /// The push.
    pub event: PushEvent,
    /// What tells it apart from other deliveries, where the event has no identity.
    pub nonce: String,
    /// It is known to be a push that is to be remembered: that makes it another job than one for what was taken for an echo before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub push: bool,
    /// Only rules with a greater ID are left to be done.
    #[serde(default)]
    pub after: u64,
}

/// List the source of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanJob {
    /// The task that it belongs to.
    pub task: TaskHead,
    /// Where it stopped.
    #[serde(default)]
    pub cursor: ScanCursor,
    /// How many steps have been made.
    #[serde(default)]
    pub continuation: u32,
    /// How many attempts had been made when it was sent, those that came to nothing included: with more than one since then, a part of
    /// the step may have been done before.
    #[serde(default)]
    pub attempts: u32,
}

/// Make again what failed in another task: a scan of that task's resources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryJob {
    /// The task that it belongs to.
    pub task: TaskHead,
    /// The other task.
    pub of: TaskId,
    /// Of the other task's resources, this one and those before it are done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Resources so far.
    #[serde(default)]
    pub resources: u64,
    /// Repositories so far.
    #[serde(default)]
    pub repositories: u64,
    /// The last of them: resources are in the order of their names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<Repository>,
    /// How many steps have been made.
    #[serde(default)]
    pub continuation: u32,
}

/// How far a scan has come: a page of repositories, one of them, a page of its tags, and how many of that are done. It names
/// pages by the registry's own positions and holds none of their content, so that it fits a message whatever the registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanCursor {
    /// The page of repositories at hand; the first without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalog: Option<String>,
    /// How far it is done.
    #[serde(default)]
    pub repository: Listed,
    /// The page of tags at hand, of the next repository; the first without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<String>,
    /// How far that is done.
    #[serde(default)]
    pub tag: Listed,
    /// Whether the repository at hand has had a tag that matched.
    #[serde(default)]
    pub counted: bool,
    /// Repositories with at least one resource so far.
    #[serde(default)]
    pub repositories: u64,
    /// Resources that have got a job so far.
    #[serde(default)]
    pub resources: u64,
    /// Those that were equal at both ends, and have got none.
    #[serde(default)]
    pub compared: u64,
    /// What could not be listed, the first of it; the rest is listed nevertheless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// How far a list of names is done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Names of the page at hand.
    pub count: usize,
    /// The last of all names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
}

impl Listed {
    /// What is left of a page. The specification has lists sorted; a name that comes again, because something was created or deleted
    /// while the list was read, is dropped, or it would be counted twice. Of a page that is not sorted only the number of
    /// names that are done is known.
    pub fn rest<T>(&self, page: Vec<T>, name: impl Fn(&T) -> &str) -> Vec<T> {
        match &self.last {
            Some(last) if page.is_sorted_by(|a, b| name(a) < name(b)) => {
                page.into_iter().filter(|item| name(item) > last.as_str()).collect()
            }
            _ => page.into_iter().skip(self.count).collect(),
        }
    }

    /// One more is done.
    pub fn note(&mut self, name: &str) {
        self.count += 1;
        self.last = Some(name.to_owned());
    }

    /// The page is done.
    pub fn turn(&mut self) {
        self.count = 0;
    }
}

impl FanOutJob {
    fn identity(&self) -> String {
        self.event.identity().unwrap_or_else(|| self.nonce.clone())
    }
}

impl Job {
    /// The task that it is a part of, if it has one already.
    pub fn task(&self) -> Option<&TaskHead> {
        match self {
            Self::Copy(CopyJob { task, .. }) | Self::Scan(ScanJob { task, .. }) | Self::Retry(RetryJob { task, .. }) => {
                Some(task)
            }
            Self::Look(_) | Self::FanOut(_) | Self::Restore(_) | Self::Preview(_) => None,
        }
    }

    /// The message group: jobs of one group never run at once. A hash in hexadecimal digits, because services limit length
    /// and kinds of characters.
    pub fn group(&self) -> String {
        match self {
            // Attachments of one subject share its referrers tag, so they have one writer as well.
            Self::Copy(CopyJob { target, subject: Some(subject), .. }) => {
                hash(&format!("subject\n{}\n{}\n{subject}", target.instance, target.repository))
            }
            Self::Copy(CopyJob { target: place, .. }) | Self::Restore(RestoreJob { place, .. }) => target_group(place),
            Self::Look(LookJob { event }) => {
                hash(&format!("look\n{}\n{}\n{:?}\n{:?}", event.instance, event.repository, event.tag, event.digest))
            }
            Self::FanOut(job) => hash(&format!("fan-out\n{}", job.identity())),
            Self::Scan(ScanJob { task, .. }) => hash(&format!("scan\n{}", task.id)),
            Self::Preview(job) => hash(&format!("preview\n{}", job.id)),
            Self::Retry(RetryJob { task, .. }) => hash(&format!("retry\n{}", task.id)),
        }
    }

    /// The de-duplication ID: the same step asked for twice within minutes is done once.
    pub fn deduplication(&self) -> String {
        match self {
            Self::Copy(job) => {
                let push = push_mark(job.told.is_some());
                hash(&format!("copy\n{}\n{}\n{}{push}", job.task.id, job.source, job.continuation))
            }
            Self::Restore(job) => hash(&format!("restore\n{}\n{}\n{}", job.place, job.digest, job.overwritten_by)),
            Self::Look(LookJob { event }) => match event.identity() {
                Some(identity) => hash(&format!("look\n{identity}")),
                None => hash(&format!("look\n{}\n{:?}\n{:?}\n{}", event.repository, event.tag, event.digest, event.received)),
            },
            Self::FanOut(job) => hash(&format!("fan-out\n{}\n{}{}", job.identity(), job.after, push_mark(job.push))),
            Self::Scan(job) => hash(&format!("scan\n{}\n{}", job.task.id, job.continuation)),
            Self::Preview(job) => hash(&format!("preview\n{}", job.id)),
            Self::Retry(job) => hash(&format!("retry\n{}\n{}", job.task.id, job.continuation)),
        }
    }
}

/// The group of all jobs that write one place.
pub fn target_group(place: &Place) -> String {
    hash(&format!("target\n{place}"))
}

/// What is known to be a push by now, and was not when the same was asked for before, is to be done as one.
fn push_mark(is_push: bool) -> &'static str {
    if is_push { "\npush" } else { "" }
}

fn hash(text: &str) -> String {
    hex(&Sha256::digest(text)[..20])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would break: the jobs that are in the queue, or among the dead letters, when a new version is deployed.
    #[test]
    fn jobs_of_the_version_before_are_read() {
        let copy = r#"{"job":"copy","task":{"id":"1-0123456789ab0123456789abcdef","instance":"a","rule":"r","trigger":{"kind":"manual"},
            "created":"2026-01-02T03:04:05Z"},"source":{"instance":"a","repository":"app","reference":"v1"},
            "target":{"instance":"b","repository":"app","reference":"v1"}}"#;
        let digest = Digest::of(b"1");
        let restore = format!(
            r#"{{"job":"restore","place":{{"instance":"a","repository":"app","reference":"v1"}},"digest":"{digest}",
            "overwritten_by":"2026-01-02T03:04:05Z"}}"#
        );
        for body in [copy, &restore] {
            let told = match serde_json::from_str(body).unwrap() {
                Job::Copy(job) => job.told,
                Job::Restore(job) => job.told,
                other => unreachable!("{other:?}"),
            };
            assert_eq!(told, None);
        }
    }
}
