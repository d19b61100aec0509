//! Something that one fetches for all who want it, and that is kept until it expires.

use std::time::Instant;

use tokio::sync::Mutex;

use crate::error::Error;

/// A value that has to be fetched, and what came of fetching it last.
pub(crate) struct Kept<T, E = Error>(Mutex<State<T, E>>);

struct State<T, E> {
    value: Option<Value<T>>,
    failed: Option<(E, Instant)>,
}

struct Value<T> {
    value: T,
    since: Instant,
    until: Instant,
}

impl<T, E> Default for Kept<T, E> {
    fn default() -> Self {
        Self(Mutex::new(State { value: None, failed: None }))
    }
}

impl<T: Clone, E: Clone> Kept<T, E> {
    /// The value that there is, unless `useless` says that it is of no use; otherwise what `fetch` brings, with the moment
    /// from which on it is not to be used any more. Whether it has been fetched since the caller asked comes with it.
    ///
    /// Who comes while it is being fetched waits, and shares what comes of it: a failure as well, because a wrong password
    /// that is sent sixteen times locks its account.
    pub(crate) async fn get(
        &self,
        useless: impl Fn(&T) -> bool,
        fetch: impl Future<Output = Result<(T, Instant), E>>,
    ) -> Result<(T, bool), E> {
        let asked = Instant::now();
        let mut state = self.0.lock().await;
        if let Some(known) = state.value.as_ref().filter(|known| known.is_current()) {
            let fresh = known.since >= asked;
            if fresh || !useless(&known.value) {
                return Ok((known.value.clone(), fresh));
            }
        }
        if let Some((error, _)) = state.failed.as_ref().filter(|(_, at)| *at >= asked) {
            return Err(error.clone());
        }
        match fetch.await {
            Ok((value, until)) => {
                *state = State { value: Some(Value { value: value.clone(), since: Instant::now(), until }), failed: None };
                Ok((value, true))
            }
            Err(error) => {
                state.failed = Some((error.clone(), Instant::now()));
                Err(error)
            }
        }
    }

    /// The value, if there is one already or somebody is fetching it.
    pub(crate) async fn current(&self) -> Option<T> {
        self.0.lock().await.value.as_ref().filter(|known| known.is_current()).map(|known| known.value.clone())
    }

    /// Forgets a value that was refused, unless somebody has replaced it in the meantime.
    pub(crate) async fn evict(&self, refused: impl Fn(&T) -> bool) {
        let mut state = self.0.lock().await;
        if state.value.as_ref().is_some_and(|known| refused(&known.value)) {
            state.value = None;
        }
    }

    /// Whether it would be missed.
    pub(crate) fn is_in_use(&self) -> bool {
        // What is locked is being fetched.
        self.0.try_lock().map_or(true, |state| state.value.as_ref().is_some_and(Value::is_current))
    }
}

impl<T> Value<T> {
    fn is_current(&self) -> bool {
        self.until > Instant::now()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use tokio::sync::Notify;

    use super::*;

    /// Sixteen ask while one fetches; what they got, and how often it was fetched.
    async fn sixteen(answer: Result<&'static str, &'static str>) -> (Vec<Result<(&'static str, bool), &'static str>>, usize) {
        let (kept, fetched, go) = (Arc::new(Kept::default()), Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let asking: Vec<_> = (0..16)
            .map(|_| {
                let (kept, fetched, go) = (kept.clone(), fetched.clone(), go.clone());
                tokio::spawn(async move {
                    let fetch = async {
                        fetched.fetch_add(1, Ordering::SeqCst);
                        go.notified().await;
                        answer.map(|value| (value, Instant::now() + Duration::from_secs(60)))
                    };
                    kept.get(|_| false, fetch).await
                })
            })
            .collect();
        // On one thread, all of them have come as far as they can.
        tokio::task::yield_now().await;
        go.notify_one();
        let mut got = Vec::new();
        for asking in asking {
            got.push(asking.await.unwrap());
        }
        (got, fetched.load(Ordering::SeqCst))
    }

    #[tokio::test]
    async fn one_fetches_for_all_and_all_share_what_comes_of_it() {
        assert_eq!(sixteen(Ok("token")).await, (vec![Ok(("token", true)); 16], 1));
        assert_eq!(sixteen(Err("wrong password")).await, (vec![Err("wrong password"); 16], 1));
    }

    #[tokio::test]
    async fn a_value_is_kept_until_it_expires_or_is_of_no_use() {
        let kept = Kept::<_, ()>::default();
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(60));
        let get = async |useless: &'static str, value, until| {
            kept.get(|known: &&str| *known == useless, async move { Ok((value, until)) }).await.unwrap()
        };
        assert_eq!(get("", "a", later).await, ("a", true));
        assert_eq!(get("", "b", later).await, ("a", false));
        assert_eq!(get("a", "b", now).await, ("b", true));
        assert_eq!(kept.current().await, None);
        assert!(!kept.is_in_use());
        assert_eq!(get("", "c", later).await, ("c", true));
        kept.evict(|known| *known == "b").await;
        assert_eq!(kept.current().await, Some("c"));
        kept.evict(|known| *known == "c").await;
        assert_eq!(kept.current().await, None);
    }

    #[tokio::test]
    async fn a_failure_is_not_kept_for_those_who_come_later() {
        let kept = Kept::default();
        assert_eq!(kept.get(|_| false, async { Err("no") }).await, Err("no"));
        tokio::time::sleep(Duration::from_millis(1)).await;
        let fetch = async { Ok(("yes", Instant::now() + Duration::from_secs(60))) };
        assert_eq!(kept.get(|_| false, fetch).await, Ok(("yes", true)));
    }
}
