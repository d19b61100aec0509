//! How much is asked of one registry host, by all that is done in the process.
//!
//! It is found out as congestion control does it. There is no limit but a number of requests at a time, until the host answers 429:
//! then half of what was sent up to there is what is sent from there on, requests at a time as well as requests a second. Every
//! success lets a little more through. What was under way when the limit was halved says nothing about the new one and does not
//! halve it again. Where the host says how long it wants to be left alone (`Retry-After`), it is, by everybody.

use std::{
    iter::Sum,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

/// The most requests at a time. More gain nothing over one connection each, and few registries would bear them.
const MOST_AT_ONCE: f64 = 64.0;
/// The least a second: slower than that, `Retry-After` is the way to say so.
const LEAST_A_SECOND: f64 = 4.0;
/// So many a second are as good as no limit.
const MOST_A_SECOND: f64 = 500.0;
/// What each success adds to the requests a second: a tenth more each second while as much is sent as may be.
const GROWTH: f64 = 0.1;
/// What is waited for here; a longer wait is the caller's, who knows what else there is to do.
pub(crate) const SHORT_WAIT: Duration = Duration::from_secs(2);

/// How often hosts have asked for less, and what that has cost, since the process began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Answers that asked for less: 429, or 503 with the time to wait.
    pub answers: u64,
    /// How long requests have been held back because of such answers, all of them added up. Work that was put off altogether instead
    /// is not in it.
    pub waited: Duration,
}

impl Sum for Throttling {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self { answers: sum.answers + one.answers, waited: sum.waited + one.waited })
    }
}

/// The limit of one host.
#[derive(Debug)]
pub(crate) struct Limit {
    state: Mutex<State>,
    /// Something has changed.
    changed: Notify,
}

/// A request that may be sent. Dropped, it is over.
#[derive(Debug)]
pub(crate) struct Permit<'a> {
    limit: &'a Limit,
    ticket: Ticket,
}

/// When a request was let through, and how many were under way then, itself included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket {
    began: Instant,
    among: usize,
}

#[derive(Debug)]
struct State {
    under_way: usize,
    at_once: f64,
    /// Requests a second, if there is a limit.
    a_second: Option<f64>,
    /// When the next may be sent.
    next: Instant,
    /// The host is left alone until then.
    quiet_until: Instant,
    halved: Instant,
    pace: Pace,
    throttling: Throttling,
}

/// How many requests a second have been sent lately.
#[derive(Debug)]
struct Pace {
    second: Instant,
    now: f64,
    before: f64,
}

/// Whether a request may be sent.
#[derive(Debug, PartialEq)]
enum Turn {
    Now,
    At(Instant),
    /// When another has ended.
    Later,
    /// Not for so long: do something else.
    Away(Duration),
}

impl Default for Limit {
    fn default() -> Self {
        Self { state: Mutex::new(State::new(Instant::now())), changed: Notify::new() }
    }
}

impl Limit {
    /// Waits until a request may be sent. If the host wants to be left alone for long, says for how long.
    pub(crate) async fn enter(&self) -> Result<Permit<'_>, Duration> {
        loop {
            // Before the look, so that no change between look and wait is missed.
            let changed = self.changed.notified();
            let now = Instant::now();
            let turn = {
                let mut state = self.state();
                let turn = state.turn(now);
                if turn == Turn::Now {
                    let ticket = state.begin(now);
                    return Ok(Permit { limit: self, ticket });
                }
                turn
            };
            match turn {
                Turn::Away(wait) => return Err(wait),
                Turn::At(time) => {
                    sleep_until(time).await;
                    self.state().throttling.waited += now.elapsed();
                }
                Turn::Later | Turn::Now => changed.await,
            }
        }
    }

    /// Learns from what the host has answered to a request.
    pub(crate) fn answered(&self, ticket: Ticket, status: u16, retry_after: Option<Duration>) {
        self.state().answered(Instant::now(), ticket, status, retry_after);
        self.changed.notify_waiters();
    }

    /// What the host has asked for so far.
    pub(crate) fn throttling(&self) -> Throttling {
        self.state().throttling
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit<'_> {
    pub(crate) fn ticket(&self) -> Ticket {
        self.ticket
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.limit.state().under_way -= 1;
        self.limit.changed.notify_waiters();
    }
}

impl State {
    fn new(now: Instant) -> Self {
        Self {
            under_way: 0,
            at_once: MOST_AT_ONCE,
            a_second: None,
            next: now,
            quiet_until: now,
            halved: now,
            pace: Pace { second: now, now: 0.0, before: 0.0 },
            throttling: Throttling::default(),
        }
    }

    fn turn(&self, now: Instant) -> Turn {
        let quiet = self.quiet_until.saturating_duration_since(now);
        if quiet > SHORT_WAIT {
            Turn::Away(quiet)
        } else if !quiet.is_zero() {
            Turn::At(self.quiet_until)
        } else if self.under_way as f64 >= self.at_once {
            Turn::Later
        } else if self.next > now {
            Turn::At(self.next)
        } else {
            Turn::Now
        }
    }

    fn begin(&mut self, now: Instant) -> Ticket {
        self.under_way += 1;
        self.pace.count(now);
        if let Some(a_second) = self.a_second {
            self.next = now + Duration::from_secs_f64(1.0 / a_second);
        }
        Ticket { began: now, among: self.under_way }
    }

    fn answered(&mut self, now: Instant, ticket: Ticket, status: u16, retry_after: Option<Duration>) {
        if let (429 | 503, Some(wait)) = (status, retry_after) {
            self.quiet_until = self.quiet_until.max(now + wait);
        }
        self.throttling.answers += u64::from(status == 429 || (status == 503 && retry_after.is_some()));
        match status {
            429 if ticket.began >= self.halved => {
                let pace = self.pace.a_second(now);
                let a_second = self.a_second.map_or(pace, |limit| limit.min(pace));
                let a_second = (a_second / 2.0).max(LEAST_A_SECOND);
                self.a_second = Some(a_second);
                self.next = now + Duration::from_secs_f64(1.0 / a_second);
                self.at_once = (self.at_once.min(ticket.among as f64) / 2.0).max(1.0);
                self.halved = now;
                tracing::debug!(a_second, at_once = self.at_once, "asking less of a registry that answered 429");
            }
            // An answer that something is not there was as welcome as any.
            _ if status < 500 && status != 429 => {
                self.at_once = (self.at_once + 1.0 / self.at_once).min(MOST_AT_ONCE);
                self.a_second = self.a_second.map(|limit| limit + GROWTH).filter(|limit| *limit < MOST_A_SECOND);
            }
            _ => {}
        }
    }
}

impl Pace {
    fn count(&mut self, now: Instant) {
        self.turn(now);
        self.now += 1.0;
    }

    /// What was sent in the second before now, as if what was sent in the calendar's last had been spread evenly over it.
    fn a_second(&mut self, now: Instant) -> f64 {
        self.turn(now);
        let passed = now.duration_since(self.second).as_secs_f64().min(1.0);
        self.before * (1.0 - passed) + self.now
    }

    fn turn(&mut self, now: Instant) {
        let passed = now.duration_since(self.second).as_secs();
        if passed > 0 {
            self.before = if passed == 1 { self.now } else { 0.0 };
            self.now = 0.0;
            self.second += Duration::from_secs(passed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn send(state: &mut State, now: Instant, status: u16, retry_after: Option<Duration>) {
        let ticket = state.begin(now);
        state.under_way -= 1;
        state.answered(now + MS, ticket, status, retry_after);
    }

    #[test]
    fn a_429_halves_what_was_sent_and_success_brings_it_back() {
        let start = Instant::now();
        let mut state = State::new(start);
        for n in 0..100 {
            send(&mut state, start + n * 5 * MS, 200, None);
        }
        send(&mut state, start + 600 * MS, 429, None);
        let halved = state.a_second.unwrap();
        assert!((50.0..51.0).contains(&halved), "{halved}");
        assert_eq!(state.turn(start + 602 * MS), Turn::At(state.next));
        for n in 0..100 {
            send(&mut state, start + 1000 * MS + n * 20 * MS, 200, None);
        }
        assert!((59.0..61.0).contains(&state.a_second.unwrap()), "{state:?}");
        for n in 0..5000 {
            send(&mut state, start + 4000 * MS + n * MS, 200, None);
        }
        assert_eq!(state.a_second, None);
    }

    #[test]
    fn what_was_under_way_halves_it_once() {
        let start = Instant::now();
        let mut state = State::new(start);
        let tickets: Vec<Ticket> = (0..40).map(|_| state.begin(start)).collect();
        for ticket in tickets.into_iter().rev() {
            state.under_way -= 1;
            state.answered(start + 50 * MS, ticket, 429, None);
        }
        assert_eq!((state.at_once, state.a_second), (20.0, Some(20.0)));
        for n in 0..10 {
            send(&mut state, start + (100 + 2 * n) * MS, 429, None);
        }
        assert_eq!((state.at_once, state.a_second), (1.0, Some(LEAST_A_SECOND)));
    }

    #[test]
    fn a_host_that_asks_for_it_is_left_alone() {
        let start = Instant::now();
        let mut state = State::new(start);
        send(&mut state, start, 503, Some(Duration::from_secs(10)));
        assert_eq!((state.at_once, state.a_second), (MOST_AT_ONCE, None));
        assert!(matches!(state.turn(start + 2 * MS), Turn::Away(_)));
        assert!(matches!(state.turn(start + 9000 * MS), Turn::At(_)));
        assert_eq!(state.turn(start + 10_002 * MS), Turn::Now);
        assert_eq!(state.throttling.answers, 1);
    }

    /// Would break: waits that nobody can see.
    #[tokio::test]
    async fn what_is_waited_for_a_host_is_added_up() {
        let limit = Limit::default();
        let ticket = limit.enter().await.unwrap().ticket();
        assert_eq!(limit.throttling(), Throttling::default());
        limit.answered(ticket, 429, Some(50 * MS));
        assert_eq!(limit.throttling(), Throttling { answers: 1, waited: Duration::ZERO });
        drop(limit.enter().await.unwrap());
        let Throttling { answers, waited } = limit.throttling();
        assert_eq!(answers, 1);
        assert!(waited >= 50 * MS, "{waited:?}");
    }
}
