//! Types and rules of transship, without I/O.
//!
//! What the parts of transship say to each other: names, instances, rules, push events, jobs, tasks and their events, and the
//! decisions that need no registry: which rules an event meets, which of two versions of a tag wins, how the log is merged.

pub mod access;
pub mod event;
pub mod explain;
pub mod flatten;
pub mod input;
pub mod instance;
pub mod job;
pub mod lifecycle;
pub mod matching;
pub mod names;
pub mod notification;
pub mod origin;
pub mod overlap;
pub mod owner;
pub mod preview;
pub mod problem;
pub mod rule;
pub mod schedule;
pub mod subscription;
pub mod task;

pub use access::{Caller, InvalidRole, Role};
pub use event::PushEvent;
pub use explain::{Reason, explain};
pub use flatten::TooDeep;
pub use input::InvalidInput;
pub use instance::{
    Credentials, Destination, EcrSettings, GoogleIdentity, Instance, InvalidSecretRef, Kind, Notify, SecretRef, TcrSettings,
    WebhookAuth,
};
pub use job::{CopyJob, FanOutJob, Job, LookJob, RestoreJob, RetryJob, ScanCursor, ScanJob};
pub use lifecycle::{InvalidPolicy, LifecyclePolicy};
pub use matching::RuleIndex;
pub use names::{
    AttachmentKind, DeliveryId, Digest, InstanceName, InvalidName, Namespace, Place, Reference, Repository, RoleArn, RuleId,
    RuleName, RulePath, SecretName, ServiceAccount, SubscriptionName, Tag, TaskId, TokenId,
};
pub use notification::{
    CloudEvent, CountsReport, Envelope, Notification, Ping, ResourceEnded, ResourceReport, TaskEnded, TaskReport, TaskResource,
};
pub use origin::{Origin, Precedence, Pushed, Told, Tombstone, Trail, Verdict, Version, Written};
pub use overlap::Overlap;
pub use owner::Owner;
pub use preview::{Foreseen, Preview, PreviewId, PreviewJob, Would};
pub use problem::{Mistake, Problem};
pub use rule::{ArtifactType, InvalidPattern, InvalidRule, Pattern, Rule, Source, Target};
pub use schedule::{InvalidSchedule, Schedule};
pub use subscription::{
    Attempt, Concern, DeliveryState, Disabled, EventPattern, EventType, Health, InvalidEventPattern, Subscription,
};
pub use task::{
    Cancellation, Counts, Happening, Outcome, Progress, Resource, ResourceState, Route, SkipReason, Task, TaskEvent, TaskHead,
    TaskStatus, Trigger,
};
