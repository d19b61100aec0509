//! What the process knows about targets, and who is at work on what.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use transship_model::{Digest, Repository};

use super::Endpoint;
use crate::{Descriptor, Registry, manifest::Parsed};

/// Whether what is remembered about a target counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Belief {
    /// What was seen there a short time ago is there.
    Memory,
    /// Nothing is believed: the target has said that something is missing.
    None,
}

/// How long a blob that was seen is believed to be there: garbage collection may take it.
const BELIEVED: Duration = Duration::from_secs(300);
/// How many blobs, and how many indexes, are remembered.
const MANY: usize = 20_000;
/// How many repositories are remembered for one blob: more do not make a mount more likely.
const REPOSITORIES: usize = 4;

/// A repository that has been seen to have something of this size, and when.
type Seen = (Repository, u64, Instant);
/// A blob at a registry, which is known by its origin.
type Key = (Arc<str>, Digest);

/// What one process remembers. All of it is bounded, and none of it is needed: a process that knows nothing asks.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Where a blob has been seen.
    places: Mutex<Recent<Key, Vec<Seen>>>,
    /// The children of an index. Content never changes, so this holds for ever.
    children: Mutex<Recent<Digest, Arc<[Digest]>>>,
    turns: Mutex<HashMap<String, Weak<AsyncMutex<()>>>>,
}

/// A map that forgets what has not been touched for long: what is in the younger half stays, the older half goes when the
/// younger is full.
#[derive(Debug)]
struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { young: HashMap::new(), old: HashMap::new() }
    }
}

impl<K: std::hash::Hash + Eq + Clone, V: Default> Recent<K, V> {
    fn get(&mut self, key: &K) -> Option<&mut V> {
        if !self.young.contains_key(key) {
            let value = self.old.remove(key)?;
            self.insert(key.clone(), value);
        }
        self.young.get_mut(key)
    }

    fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= MANY / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        self.young.retain(|key, _| keep(key));
        self.old.retain(|key, _| keep(key));
    }
}

/// Held by whoever is at work on something; others wait for it.
pub(super) struct Turn(#[expect(dead_code, reason = "held, never read")] OwnedMutexGuard<()>);

impl Memory {
    /// Whether the target is believed to have a blob.
    pub(super) fn has(&self, target: &Endpoint, blob: &Descriptor) -> bool {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let found = places.get(&(target.registry.origin().clone(), blob.digest.clone()));
        let is_it = |(repository, size, seen): &Seen| {
            *repository == target.repository && *size == blob.size && seen.elapsed() < BELIEVED
        };
        found.is_some_and(|places| places.iter().any(is_it))
    }

    /// The repositories of a registry in which a blob has been seen, however long ago.
    pub(super) fn repositories(&self, registry: &Registry, digest: &Digest) -> Vec<Repository> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let found = places.get(&(registry.origin().clone(), digest.clone()));
        found.map(|places| places.iter().rev().map(|(repository, ..)| repository.clone()).collect()).unwrap_or_default()
    }

    /// The target has been seen to have a blob.
    pub(super) fn saw(&self, target: &Endpoint, blob: &Descriptor) {
        let key = (target.registry.origin().clone(), blob.digest.clone());
        let mut known = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = (target.repository.clone(), blob.size, Instant::now());
        match known.get(&key) {
            None => known.insert(key, vec![seen]),
            Some(places) => {
                places.retain(|(repository, ..)| *repository != target.repository);
                if places.len() == REPOSITORIES {
                    places.remove(0);
                }
                places.push(seen);
            }
        }
    }

    /// Forgets everything about a registry's blobs.
    pub(super) fn forget(&self, registry: &Registry) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|(origin, _)| origin != registry.origin());
    }

    pub(super) fn learn_children(&self, digest: &Digest, parsed: &Parsed) {
        let children = parsed.children().map(|child| child.digest.clone()).collect();
        self.children.lock().unwrap_or_else(PoisonError::into_inner).insert(digest.clone(), children);
    }

    pub(super) fn children(&self, digest: &Digest) -> Option<Arc<[Digest]>> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }

    /// Waits until nobody else is at work on `what` at a registry.
    pub(super) async fn turn(&self, registry: &Registry, what: &str) -> Turn {
        let lock = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            if turns.len() > 1000 {
                turns.retain(|_, turn| turn.strong_count() > 0);
            }
            let turn = turns.entry(format!("{} {what}", registry.origin())).or_default();
            turn.upgrade().unwrap_or_else(|| {
                let lock = Arc::new(AsyncMutex::new(()));
                *turn = Arc::downgrade(&lock);
                lock
            })
        };
        Turn(lock.lock_owned().await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_keeps_what_is_used() {
        let mut recent = Recent::<usize, usize>::default();
        recent.insert(usize::MAX, 1);
        for n in 0..10 * MANY {
            recent.insert(n, n);
            assert!(recent.get(&usize::MAX).is_some());
        }
        assert!(recent.young.len() + recent.old.len() <= MANY + 2);
        assert!(recent.get(&0).is_none());
    }
}
