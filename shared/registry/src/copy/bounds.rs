//! What a copy has to keep to: its time, and what it shares with copies in other processes.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep, timeout_at};
use transship_model::Repository;

use super::{Checkpoints, Endpoint};

/// What comes of asking for a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lease {
    /// It is ours for a minute from now on, or is again.
    Taken,
    /// Another process has it.
    Busy,
    /// Another process has had it, and has brought the thing to this repository a short time ago.
    Brought(Repository),
}

/// Who of all processes is at work on what at a registry: one digest on its way to one registry is in flight once. None of it is needed for
/// a copy to be right, only for bytes not to be sent twice; an implementation that fails says so in its log and lets everybody go on.
#[async_trait]
pub trait Leases: Send + Sync {
    /// Takes the lease of something at the target's registry for a minute, or renews our own. A process that dies keeps it no longer.
    async fn take(&self, target: &Endpoint, what: &str) -> Lease;
    /// Gives it back. If the thing has been `brought`, it is noted for a while that the target's repository has it.
    async fn give_back(&self, target: &Endpoint, what: &str, brought: bool);
}

/// How often a lease is renewed, well before it ends by itself.
const RENEWED: Duration = Duration::from_secs(20);

/// How long something may take, where it is kept how far it has come, and who else is at work. By default, for ever, nowhere and nobody.
#[derive(Clone, Copy)]
pub struct Bounds<'a> {
    began: Instant,
    deadline: Option<Instant>,
    checkpoints: Option<&'a dyn Checkpoints>,
    leases: Option<&'a dyn Leases>,
}

impl Default for Bounds<'_> {
    fn default() -> Self {
        Self { began: Instant::now(), deadline: None, checkpoints: None, leases: None }
    }
}

impl<'a> Bounds<'a> {
    /// So much later than its deadline a transfer has ended, whatever happens: requests that are under way then are ended well.
    pub const ENDING: Duration = Duration::from_secs(5);

    /// From now until a deadline, if there is one. Before it, everything that can be sent is sent.
    pub fn until(self, deadline: Option<Instant>) -> Self {
        Self { began: Instant::now(), deadline, ..self }
    }

    /// With uploads that another process can go on with.
    pub fn keeping(self, checkpoints: &'a dyn Checkpoints) -> Self {
        Self { checkpoints: Some(checkpoints), ..self }
    }

    /// With other processes at work on the same registries.
    pub fn sharing(self, leases: &'a dyn Leases) -> Self {
        Self { leases: Some(leases), ..self }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    pub(super) fn checkpoints(&self) -> Option<&'a dyn Checkpoints> {
        self.checkpoints
    }

    /// Whether other processes are known to ask before they do the same.
    pub(super) fn are_shared(&self) -> bool {
        self.leases.is_some()
    }

    /// Whether the deadline has come, or will have after a while.
    pub(super) fn are_over_after(&self, wait: Duration) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() + wait >= deadline)
    }

    /// Whether what has begun then has had most of the time: more of it is not to be had.
    pub(super) fn gave_most_since(&self, then: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline.duration_since(then) * 2 > deadline.duration_since(self.began))
    }

    /// What something comes to before the deadline.
    pub(super) async fn wait<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        Self::before(self.deadline, work).await
    }

    /// What something comes to that ends by itself at the deadline.
    pub(super) async fn end<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        Self::before(self.deadline.map(|deadline| deadline + Self::ENDING), work).await
    }

    async fn before<T>(time: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
        match time {
            Some(time) => timeout_at(time, work).await.ok(),
            None => Some(work.await),
        }
    }

    /// Asks all other processes for a turn. Where there are none, everybody has one.
    pub(super) async fn lease(&self, target: &'a Endpoint, what: &'a str) -> Answer<'a> {
        let Some(leases) = self.leases else { return Answer::Ours(Held { leases: None, target, what }) };
        match leases.take(target, what).await {
            Lease::Taken => Answer::Ours(Held { leases: Some(leases), target, what }),
            Lease::Brought(repository) => Answer::Brought(repository),
            Lease::Busy => Answer::Busy,
        }
    }
}

/// What comes of asking all other processes for a turn.
pub(super) enum Answer<'a> {
    Ours(Held<'a>),
    Brought(Repository),
    Busy,
}

/// A lease that is ours. Dropped, it ends by itself after a minute.
pub(super) struct Held<'a> {
    leases: Option<&'a dyn Leases>,
    target: &'a Endpoint,
    what: &'a str,
}

impl Held<'_> {
    /// Does something with the lease kept, and gives it back. Whether the thing has then been brought, `brought` says.
    pub(super) async fn during<T>(self, work: impl Future<Output = T>, brought: impl FnOnce(&T) -> bool) -> T {
        let Self { leases: Some(leases), target, what } = self else { return work.await };
        let renew = async {
            loop {
                sleep(RENEWED).await;
                // Should somebody else have it by now, some bytes go twice, and nothing is lost.
                leases.take(target, what).await;
            }
        };
        let done = tokio::select! {
            done = work => done,
            never = renew => never,
        };
        leases.give_back(target, what, brought(&done)).await;
        done
    }
}
