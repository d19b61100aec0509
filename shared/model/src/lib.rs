//! Types and rules of transship, without I/O.
//!
//! What the parts of transship say to each other: names, instances, rules, push events, jobs, tasks and their events, and the
//! decisions that need no registry: which rules an event meets, which of two versions of a tag wins, how the log is merged.

pub mod access;
pub mod event;
pub mod explain;
pub mod instance;
pub mod job;
pub mod matching;
pub mod names;
pub mod notification;
pub mod origin;
pub mod preview;
pub mod problem;
pub mod rule;
pub mod schedule;
pub mod task;

pub use access::{Caller, Role};
pub use event::PushEvent;
pub use explain::{Reason, explain};
pub use instance::{
    Credentials, EcrSettings, GoogleIdentity, Instance, InvalidSecretRef, Kind, Notify, SecretRef, WebhookAuth,
};
pub use job::{CopyJob, FanOutJob, Job, LookJob, RestoreJob, ScanCursor, ScanJob};
pub use matching::RuleIndex;
pub use names::{
    AttachmentKind, Digest, InstanceName, InvalidName, Namespace, Place, Reference, Repository, RoleArn, RuleId, RuleName,
    SecretName, ServiceAccount, Tag, TaskId,
};
pub use notification::{Notification, ResourceReport, TaskEnded, TaskReport};
pub use origin::{Origin, Precedence, Pushed, Told, Tombstone, Trail, Verdict, Version, Written};
pub use preview::{Foreseen, Preview, PreviewId, PreviewJob, Would};
pub use problem::Problem;
pub use rule::{ArtifactType, InvalidPattern, InvalidRule, Pattern, Rule, Source, Target};
pub use schedule::{InvalidSchedule, Schedule};
pub use task::{
    Counts, Happening, Outcome, Progress, Resource, ResourceState, Route, SkipReason, Task, TaskEvent, TaskHead, TaskStatus,
    Trigger,
};
