//! What has just changed in the log, for those in the same process that watch it.

use std::sync::Arc;

use tokio::sync::broadcast;
use transship_model::{Place, TaskId};

/// That events of a task have been taken in.
#[derive(Debug, Clone)]
pub struct Changed {
    /// The task.
    pub task: TaskId,
    /// The sources of those of its resources that the events were about.
    pub resources: Arc<[Place]>,
}

/// Passes on changes of the log. Who listens too slowly, or later, reads the log.
#[derive(Clone)]
pub struct Feed(broadcast::Sender<Option<Changed>>);

/// So many changes wait for a listener.
const KEPT: usize = 1024;

impl Default for Feed {
    fn default() -> Self {
        Self(broadcast::Sender::new(KEPT))
    }
}

impl Feed {
    /// Tells those who listen.
    pub fn tell(&self, change: Changed) {
        // Nobody may be listening.
        let _ = self.0.send(Some(change));
    }

    /// Tells those who listen that nothing more is coming.
    pub fn end(&self) {
        let _ = self.0.send(None);
    }

    /// Hears what is told from now on; `None` is the end.
    pub fn listen(&self) -> broadcast::Receiver<Option<Changed>> {
        self.0.subscribe()
    }
}
