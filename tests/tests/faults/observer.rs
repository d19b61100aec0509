//! Somebody who looks at the target all the time.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use serde_json::Value;
use transship_model::Digest;
use transship_tests::*;

/// Looks at every tag of a registry without rest: what one points to has to be there with all that it refers to.
pub(crate) struct Observer {
    stop: Arc<AtomicBool>,
    looking: tokio::task::JoinHandle<usize>,
}

impl Observer {
    pub(crate) fn of(registry: &DockerRegistry) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, client) = (stop.clone(), registry.client().clone());
        let looking = tokio::spawn(async move {
            let (mut whole, mut looks) = (HashSet::new(), 0);
            while !stopped.load(Ordering::SeqCst) {
                for repository in client.catalog().await {
                    let tags = client.tags(&repository).await;
                    let looked = stream::iter(tags)
                        .map(|tag| client.at(&repository, tag))
                        .map(|at| async move { at.find_manifest().await });
                    let mut looked = looked.buffer_unordered(8);
                    while let Some(manifest) = looked.next().await {
                        looks += 1;
                        let Some(manifest) = manifest else { continue };
                        // What was whole stays so: nothing is deleted here.
                        if whole.insert((repository.clone(), manifest.digest.clone())) {
                            assert_whole(&client, &repository, manifest).await;
                        }
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            looks
        });
        Self { stop, looking }
    }

    /// Ends it; how often it has looked.
    ///
    /// # Panics
    /// If it has seen something incomplete.
    pub(crate) async fn stop(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        self.looking.await.unwrap()
    }
}

async fn assert_whole(client: &Client, repository: &str, root: Manifest) {
    let mut todo = vec![root];
    while let Some(manifest) = todo.pop() {
        let json = manifest.json();
        let digests = |field: &str| -> Vec<Digest> {
            let entries = json[field].as_array().into_iter().flatten();
            entries.map(|entry| entry["digest"].as_str().unwrap().parse().unwrap()).collect()
        };
        let config = json["config"]["digest"].as_str().map(|digest| digest.parse().unwrap());
        for blob in digests("layers").into_iter().chain(config) {
            assert!(
                client.has_blob(repository, &blob).await,
                "a tag of {repository} was seen without blob {blob} of {manifest:?}"
            );
        }
        for child in digests("manifests") {
            let found = client.find_manifest(repository, child.as_str()).await;
            assert!(found.is_some(), "a tag of {repository} was seen without {child} of {manifest:?}");
            todo.extend(found);
        }
        assert_ne!(json, Value::Null);
    }
}
