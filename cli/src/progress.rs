//! Progress: a bar in a terminal, plain lines otherwise.

use std::{
    io::{IsTerminal, stderr},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output;

/// How often a plain line is printed.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// How far something has come, shown on standard error.
pub(crate) struct Meter {
    bar: Option<ProgressBar>,
    what: String,
    unit: Unit,
    total: AtomicU64,
    done: AtomicU64,
    last_line: Mutex<Instant>,
    message: Mutex<String>,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Bytes.
    Bytes,
    /// Resources of a task.
    Resources,
}

impl Meter {
    /// A meter that shows nothing yet.
    pub(crate) fn new(what: impl Into<String>, unit: Unit) -> Self {
        let what = what.into();
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let counted = match unit {
                Unit::Bytes => "{binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}",
                Unit::Resources => "{pos}/{len}",
            };
            if let Ok(style) = ProgressStyle::with_template(&format!("{{prefix}} [{{bar:30}}] {counted} {{msg}}")) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(what.clone());
            bar
        });
        let (total, done) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { bar, what, unit, total, done, last_line: Mutex::new(Instant::now()), message: Mutex::default() }
    }

    /// Says how far it is.
    pub(crate) fn set(&self, done: u64, total: u64, message: &str) {
        self.done.store(done, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
        self.show(message);
    }

    /// Says something besides how far it is.
    pub(crate) fn say(&self, message: &str) {
        *self.message.lock().unwrap_or_else(PoisonError::into_inner) = message.to_owned();
        self.show(message);
    }

    /// Ends it, and leaves the bar where it stands.
    pub(crate) fn keep(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }

    /// Ends it. The bar goes, what it showed stands in the lines that follow.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn show(&self, message: &str) {
        let (done, total) = (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed));
        if let Some(bar) = &self.bar {
            // Of nothing everything is done: until something is known the bar has no length and is empty.
            if total > 0 {
                bar.set_length(total.max(done));
            }
            bar.set_position(done);
            bar.set_message(message.to_owned());
            return;
        }
        let mut last = self.last_line.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() < LINE_EVERY {
            return;
        }
        *last = Instant::now();
        let counted = match self.unit {
            _ if total == 0 => String::new(),
            Unit::Bytes => format!("{} of {}", output::bytes(done), output::bytes(total)),
            Unit::Resources => format!("{done} of {total} resources"),
        };
        let separator = if counted.is_empty() || message.is_empty() { "" } else { ", " };
        eprintln!("{}: {counted}{separator}{message}", self.what);
    }

    fn change(&self, counter: &AtomicU64, bytes: u64) {
        counter.fetch_add(bytes, Ordering::Relaxed);
        let message = self.message.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.show(&message);
    }
}

impl transship_registry::Progress for Meter {
    fn planned(&self, bytes: u64) {
        self.change(&self.total, bytes);
    }

    fn moved(&self, bytes: u64) {
        self.change(&self.done, bytes);
    }

    fn mounted(&self, bytes: u64) {
        self.change(&self.done, bytes);
    }

    fn present(&self, bytes: u64) {
        self.change(&self.done, bytes);
    }

    fn lost(&self, bytes: u64) {
        self.done.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn absent(&self, bytes: u64) {
        self.lost(bytes);
    }
}
