//! Tasks that would stay open for ever: what they wait for is not wanted any more, or has been lost.

use std::time::Duration;

use jiff::Timestamp;
use transship_model::{Happening, Outcome, Resource, ResourceState, SkipReason, Task, TaskEvent};
use transship_state::{OpenTask, StateError};

use crate::Logger;

/// For so long after a task was cancelled workers end what they are at, and jobs what they come up for: a heartbeat and some more.
const WORKERS_END: Duration = Duration::from_secs(120);
/// A task of which nothing was heard for so long is looked after: what may pass is tried again for 24 hours, and no wait is longer.
const QUIET: Duration = Duration::from_secs(26 * 3600);
/// For so long it is looked after before it is taken for lost. That is counted from the first look and not from the last event: if the
/// logger itself was away for days, what it has missed is in its queue still.
const WATCHED: Duration = Duration::from_secs(24 * 3600);
/// A job that nobody has begun may be in its queue for 14 days.
const QUEUED: Duration = Duration::from_secs(15 * 24 * 3600);
/// What is written in the log.
const ASTRAY: &str =
    "its events went astray: nothing was heard of it for two days. Start the rule again by hand, or retry the task";
/// At most so many tasks are looked at by one sweep.
const MAX_TASKS: usize = 1000;
/// At most so many resources are ended by one sweep; the next goes on.
const MAX_ENDED: usize = 5000;
/// So many resources are read at a time.
const PAGE: usize = 200;

/// Why a task is wound up.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    Cancelled,
    Astray,
}

impl Logger {
    /// Winds up tasks that were cancelled a while ago, and those of which nothing has been heard for too long.
    pub(crate) async fn find_strays(&self, now: Timestamp) -> Result<(), StateError> {
        let mut budget = MAX_ENDED;
        self.find_cancelled(now, &mut budget).await?;
        self.find_lost(now, &mut budget).await
    }

    async fn find_cancelled(&self, now: Timestamp, budget: &mut usize) -> Result<(), StateError> {
        let (mut after, mut seen) = (None, 0);
        while seen < MAX_TASKS && *budget > 0 {
            let page = self.log.cancelling(after, 100).await?;
            seen += page.items.len().max(1);
            for id in page.items {
                match self.log.task(&id).await?.filter(|task| task.ended.is_none()) {
                    None => self.log.settled(&id).await?,
                    Some(task) => {
                        let at = task.cancelled.as_ref().map_or(task.head.created, |cancelled| cancelled.at);
                        if is_over(at, WORKERS_END, now) {
                            self.wind_up(&task, Why::Cancelled, now, budget).await?;
                        }
                    }
                }
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        Ok(())
    }

    async fn find_lost(&self, now: Timestamp, budget: &mut usize) -> Result<(), StateError> {
        let Ok(before) = now.checked_sub(QUIET) else { return Ok(()) };
        let (mut after, mut seen) = (None, 0);
        while seen < MAX_TASKS && *budget > 0 {
            let page = self.log.open_before(before, after, 100).await?;
            seen += page.items.len().max(1);
            for open in page.items {
                self.look_after(&open, now, budget).await?;
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Looks whether an open task still moves.
    async fn look_after(&self, open: &OpenTask, now: Timestamp, budget: &mut usize) -> Result<(), StateError> {
        let id = &open.task;
        let Some(task) = self.log.task(id).await?.filter(|task| task.ended.is_none()) else {
            return self.log.settled(id).await;
        };
        let moved = self.log.moved(id).await?.unwrap_or(task.head.created);
        match open.suspect {
            Some(since) if moved <= since && is_over(since, WATCHED, now) => {
                self.wind_up(&task, Why::Astray, now, budget).await
            }
            Some(since) if moved <= since => Ok(()),
            Some(_) if !is_over(moved, QUIET, now) => self.log.suspect(id, None).await,
            None if !is_over(moved, QUIET, now) => Ok(()),
            _ => self.log.suspect(id, Some(now)).await,
        }
    }

    /// Ends what a task waits for in vain. It is told as workers tell it, so that what they tell late is merged as ever: the first outcome
    /// stands, and is counted once.
    async fn wind_up(&self, task: &Task, why: Why, now: Timestamp, budget: &mut usize) -> Result<(), StateError> {
        let id = &task.head.id;
        let is_old = is_over(task.head.created, QUEUED, now);
        let tell = |what| TaskEvent { task: task.head.clone(), at: now, what };
        let (mut after, mut waits) = (None, false);
        while *budget > 0 {
            let page = self.log.resources(id, after, PAGE).await?;
            let open = page.items.iter().filter(|resource| resource.state != ResourceState::Done);
            let (lost, kept): (Vec<&Resource>, Vec<&Resource>) = open.partition(|resource| match why {
                Why::Cancelled => true,
                Why::Astray if resource.state == ResourceState::Queued => is_over(resource.queued, QUEUED, now),
                Why::Astray => resource.progress.retry_at.is_none_or(|retry_at| is_over(retry_at, QUIET, now)),
            });
            waits |= !kept.is_empty();
            *budget = budget.saturating_sub(lost.len());
            let events: Vec<TaskEvent> = lost.into_iter().map(|resource| tell(end_of(resource, why))).collect();
            self.take_in(&events).await?;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        if after.is_some() {
            return Ok(());
        }
        let Some(task) = self.log.task(id).await?.filter(|task| task.ended.is_none()) else {
            return self.log.settled(id).await;
        };
        let (compared, repositories) = (task.compared, task.repositories);
        let total = task.counts.found - compared;
        if task.total.is_none() && (why == Why::Cancelled || is_old || task.started.is_some()) {
            let what = match why {
                Why::Cancelled => Happening::ScanStopped { total, compared, repositories },
                Why::Astray => Happening::ScanEnded { total, compared, repositories, error: Some(ASTRAY.to_owned()) },
            };
            self.take_in(&[tell(what)]).await?;
        } else if task.total.is_some() && !waits && (why == Why::Cancelled || is_old) {
            // Of some of its resources nothing was ever heard.
            let catalog = self.outlets.catalog.snapshot().await?;
            let is_announced = self.outlets.wants(&catalog, &task.head);
            if let Some(closed) = self.log.close_short(id, ASTRAY, is_announced).await? {
                let unannounced = self.log.unannounced(std::slice::from_ref(id)).await?;
                self.announce(&catalog, &unannounced, &[closed]).await;
            }
        }
        tracing::warn!(task = %id, is_cancelled = why == Why::Cancelled, "a task was wound up");
        Ok(())
    }
}

fn end_of(resource: &Resource, why: Why) -> Happening {
    let outcome = match (why, &resource.progress.error) {
        (Why::Cancelled, _) => Outcome::Skipped { reason: SkipReason::Cancelled },
        (Why::Astray, None) => Outcome::Failed { reason: ASTRAY.to_owned() },
        (Why::Astray, Some(error)) => Outcome::Failed { reason: format!("{ASTRAY}. The last error: {error}") },
    };
    Happening::Ended { route: resource.route.clone(), progress: resource.progress.clone(), outcome }
}

/// Whether so long a time after `since` is over.
fn is_over(since: Timestamp, time: Duration, now: Timestamp) -> bool {
    since.checked_add(time).is_ok_and(|end| end <= now)
}
