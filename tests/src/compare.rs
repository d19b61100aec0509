//! Whether two registries hold the same.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;
use transship_model::Digest;

use crate::{At, Manifest};

/// What [`assert_same`] has compared.
#[derive(Debug, Default)]
pub struct Walked {
    /// The manifests, each once: the root first.
    pub manifests: Vec<Digest>,
    /// The blobs and their sizes.
    pub blobs: BTreeMap<Digest, usize>,
}

/// Walks from a manifest at the source, and requires every manifest to be at the target byte for byte with the same type, and
/// every blob to be there with the right digest, computed anew at both ends. Referrers are not walked: they are places of
/// their own.
///
/// # Panics
/// With the first difference.
pub async fn assert_same(source: &At, target: &At) -> Walked {
    let mut walked = Walked::default();
    let mut seen = HashSet::new();
    let mut todo = vec![(source.clone(), target.clone())];
    while let Some((source, target)) = todo.pop() {
        let want = source.manifest().await;
        let Some(got) = target.find_manifest().await else { panic!("{source} is there, {target} is not") };
        assert_eq!(got, want, "{target} is not what {source} is");
        if !seen.insert(want.digest.clone()) {
            continue;
        }
        for child in children(&want) {
            todo.push((source.with(&child), target.with(&child)));
        }
        for digest in blobs(&want) {
            if seen.insert(digest.clone()) {
                let here = source.client.blob(&source.repository, &digest).await;
                let there = target.client.blob(&target.repository, &digest).await;
                assert_eq!(there.len(), here.len(), "the size of blob {digest} of {target}");
                walked.blobs.insert(digest, here.len());
            }
        }
        walked.manifests.push(want.digest);
    }
    walked
}

fn children(manifest: &Manifest) -> Vec<Digest> {
    digests(manifest.json()["manifests"].as_array().into_iter().flatten())
}

fn blobs(manifest: &Manifest) -> Vec<Digest> {
    let json = manifest.json();
    // Layers that may not be distributed stay where they are; the manifest alone names them.
    let here = |layer: &&Value| {
        !layer["mediaType"].as_str().is_some_and(|kind| kind.contains("nondistributable") || kind.contains("foreign"))
    };
    let layers = json["layers"].as_array().into_iter().flatten().filter(here);
    digests(json.get("config").into_iter().chain(layers))
}

fn digests<'a>(descriptors: impl Iterator<Item = &'a Value>) -> Vec<Digest> {
    let digest = |entry: &Value| entry["digest"].as_str().expect("a descriptor has a digest").parse().expect("a digest");
    descriptors.map(digest).collect()
}
