//! What is copied, and whether it has arrived.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use reqwest::Method;
use sha2::{Digest as _, Sha256};
use transship_model::Digest;
use transship_tests::{Artifact, Client, Image, Index, Manifest};

use crate::large::{self, hex};

/// Where everything is, at the source and then at the target.
pub(crate) const REPOSITORY: &str = "team/app";
const MIB: usize = 1 << 20;
const TAGS: u64 = 200;

/// Content of the source: tags, and what they point to.
pub(crate) struct Work {
    pub(crate) tags: Vec<(String, Digest)>,
    /// Bytes in all blobs, each counted once.
    pub(crate) size: u64,
    /// How long the source took to take the blobs from memory, four at a time: nobody who has to read them somewhere can be faster.
    pub(crate) taken: Duration,
}

impl Work {
    /// One layer of 1 GiB; also its digest.
    pub(crate) async fn large(source: &Client) -> (Self, Digest) {
        let (layer, manifest) = large::push(source, REPOSITORY).await;
        (Self { tags: vec![("v1".into(), manifest)], size: large::SIZE as u64, taken: Duration::ZERO }, layer)
    }

    /// 60 layers of 4 MiB.
    pub(crate) async fn layers(source: &Client) -> Self {
        Self::push(source, 1, |_| Image::random(2).layers(60, 4 * MIB).build()).await
    }

    /// An index of four platforms with six layers of 8 MiB each, of which three are shared.
    pub(crate) async fn index(source: &Client) -> Self {
        Self::push(source, 1, |_| Index::random(3).platforms(4).layers(3, 8 * MIB).base(9, 3, 8 * MIB).build()).await
    }

    /// Five small layers.
    pub(crate) async fn small(source: &Client) -> Self {
        Self::push(source, 1, |_| Image::random(4).layers(5, 16 << 10).build()).await
    }

    /// 200 tags: two shared layers of 8 MiB, and one of 64 KiB each.
    pub(crate) async fn tags(source: &Client) -> Self {
        Self::push(source, TAGS, |i| Image::random(1000 + i).base(5, 2, 8 * MIB).layers(1, 64 << 10).build()).await
    }

    async fn push(source: &Client, tags: u64, build: impl Fn(u64) -> Artifact) -> Self {
        let (mut work, mut pushed) = (Self { tags: Vec::new(), size: 0, taken: Duration::ZERO }, HashSet::new());
        for i in 0..tags {
            let artifact = build(i);
            let new: Vec<_> = artifact.blobs().iter().filter(|(digest, _)| pushed.insert((*digest).clone())).collect();
            work.size += new.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
            let blobs = stream::iter(new).map(|(_, bytes)| source.push_blob(REPOSITORY, bytes.clone()));
            let began = Instant::now();
            blobs.buffer_unordered(4).for_each(|_| async {}).await;
            work.taken += began.elapsed();
            let tag = format!("v{i}");
            for manifest in artifact.manifests() {
                let root = manifest.digest == *artifact.digest();
                let reference = if root { &*tag } else { manifest.digest.as_str() };
                source.put_manifest(REPOSITORY, reference, &manifest.media_type, manifest.bytes.clone()).await;
            }
            work.tags.push((tag, artifact.digest().clone()));
        }
        work
    }

    /// Reads everything at a target again and computes all digests anew: the tags' are those of the source, and they cover the rest.
    pub(crate) async fn verify(&self, target: &Client) {
        let mut seen = HashSet::new();
        for (tag, digest) in &self.tags {
            let mut todo = vec![(tag.clone(), digest.clone())];
            while let Some((reference, digest)) = todo.pop() {
                let manifest = target.get_manifest(REPOSITORY, &reference).await;
                assert_eq!(manifest.digest, digest, "the digest of {reference}");
                todo.extend(digests(&manifest, &["manifests"]).map(|child| (child.to_string(), child)));
                for blob in digests(&manifest, &["config", "layers"]).filter(|blob| seen.insert(blob.clone())) {
                    verify_blob(target, &blob).await;
                }
            }
        }
    }
}

/// The digests in some fields of a manifest.
fn digests(manifest: &Manifest, fields: &[&str]) -> impl Iterator<Item = Digest> + use<> {
    let json = manifest.json();
    let entries = fields.iter().flat_map(|field| match &json[field] {
        serde_json::Value::Array(entries) => entries.clone(),
        serde_json::Value::Null => Vec::new(),
        entry => vec![entry.clone()],
    });
    let digests: Vec<Digest> =
        entries.map(|entry| entry["digest"].as_str().expect("a digest").parse().expect("a digest")).collect();
    digests.into_iter()
}

async fn verify_blob(target: &Client, digest: &Digest) {
    let path = format!("/v2/{REPOSITORY}/blobs/{digest}");
    let mut body = target.request(Method::GET, &path).send().await.expect("the blob").bytes_stream();
    let mut hash = Sha256::new();
    while let Some(piece) = body.next().await {
        hash.update(piece.expect("the blob's content"));
    }
    assert_eq!(format!("sha256:{}", hex(&hash.finalize())), digest.as_str());
}
