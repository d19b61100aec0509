//! What the process knows about a registry's host, whichever instance's client has found it out.

use std::sync::{Mutex, PoisonError};

use crate::{auth::Services, limit::Limit, registry::Strategy};

/// A registry's host: one for each origin, kept by [`crate::Http`] as long as it lives.
#[derive(Debug, Default)]
pub(crate) struct Host {
    /// How it has been found to take blobs, if that is not how its kind takes them.
    strategy: Mutex<Option<Strategy>>,
    /// How much is asked of it.
    limit: Limit,
    /// What its token services have been found to be like.
    services: Services,
}

impl Host {
    pub(crate) fn limit(&self) -> &Limit {
        &self.limit
    }

    pub(crate) fn token_services(&self) -> &Services {
        &self.services
    }

    pub(crate) fn strategy(&self) -> Option<Strategy> {
        *self.strategy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn learn_strategy(&self, strategy: Strategy) {
        *self.strategy.lock().unwrap_or_else(PoisonError::into_inner) = Some(strategy);
    }
}
