//! Content for registries: images, indexes, charts, artifacts and signatures, the same for the same seed.

use std::{collections::BTreeMap, fmt::Display};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use transship_model::Digest;

use crate::{
    At, Manifest,
    layer::{self, Layer, random_bytes, seed_of},
};

/// Media types, as the specifications write them.
pub mod media {
    #![expect(missing_docs, reason = "the names say it")]
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    pub const HELM_CONFIG: &str = "application/vnd.cncf.helm.config.v1+json";
    pub const HELM_CONTENT: &str = "application/vnd.cncf.helm.chart.content.v1.tar+gzip";
    pub const COSIGN_PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
    pub const IN_TOTO: &str = "application/vnd.in-toto+json";
}

/// A manifest with all that it refers to, ready to be pushed anywhere.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// Children before their parents; the last is the root. Never empty.
    manifests: Vec<Manifest>,
    blobs: BTreeMap<Digest, Bytes>,
}

impl Artifact {
    /// The root's digest.
    pub fn digest(&self) -> &Digest {
        &self.root().digest
    }

    /// The manifest that gets the tag.
    pub fn root(&self) -> &Manifest {
        self.manifests.last().expect("an artifact has a root")
    }

    /// All manifests, children first.
    pub fn manifests(&self) -> &[Manifest] {
        &self.manifests
    }

    /// All blobs.
    pub fn blobs(&self) -> &BTreeMap<Digest, Bytes> {
        &self.blobs
    }

    /// The digest of the largest blob: the one that a test breaks the transfer of.
    pub fn largest_blob(&self) -> &Digest {
        self.blobs.iter().max_by_key(|(_, bytes)| bytes.len()).expect("an artifact has blobs").0
    }

    /// Bytes in all blobs together.
    pub fn size(&self) -> usize {
        self.blobs.values().map(Bytes::len).sum()
    }

    /// Pushes it over plain HTTP: blobs, children, then the root to the place's reference.
    pub async fn push(&self, at: &At) {
        let blobs = stream::iter(self.blobs.values());
        let push = |bytes: &Bytes| {
            let bytes = bytes.clone();
            async move { at.client.push_blob(&at.repository, bytes).await }
        };
        blobs.map(push).buffer_unordered(8).for_each(|_| async {}).await;
        for manifest in &self.manifests {
            let digest = manifest.digest.as_str();
            let reference = if manifest.digest == *self.digest() { &*at.reference } else { digest };
            at.client.put_manifest(&at.repository, reference, &manifest.media_type, manifest.bytes.clone()).await;
        }
    }

    /// Pushes it without a tag, as referrers and children are.
    pub async fn push_by_digest(&self, at: &At) {
        self.push(&at.with(self.digest())).await;
    }
}

/// An image for one platform.
#[derive(Clone, Debug)]
pub struct Image {
    seed: u64,
    layers: Vec<(u64, usize)>,
    empty: usize,
    platform: (String, String),
    annotations: BTreeMap<String, String>,
    docker: bool,
}

impl Image {
    /// An OCI image without layers, for linux/amd64; what it holds depends on `seed` and on what is said of it below.
    pub fn random(seed: u64) -> Self {
        Self {
            seed,
            layers: Vec::new(),
            empty: 0,
            platform: ("linux".into(), "amd64".into()),
            annotations: BTreeMap::new(),
            docker: false,
        }
    }

    /// Adds `n` layers of a little more than `size` bytes each.
    #[must_use]
    pub fn layers(mut self, n: usize, size: usize) -> Self {
        let first = self.layers.len();
        let seed = self.seed;
        self.layers.extend((first..first + n).map(|i| (seed_of(seed, &format!("layer {i}")), size)));
        self
    }

    /// Adds layers that every image with the same base has too.
    #[must_use]
    pub fn base(mut self, base: u64, n: usize, size: usize) -> Self {
        self.layers.extend((0..n).map(|i| (seed_of(base, &format!("base {i}")), size)));
        self
    }

    /// Adds `n` layers of no bytes at all, as some tools make them for what changes no file.
    #[must_use]
    pub fn empty(mut self, n: usize) -> Self {
        self.empty += n;
        self
    }

    /// Another platform than linux/amd64.
    #[must_use]
    pub fn platform(mut self, os: &str, architecture: &str) -> Self {
        self.platform = (os.into(), architecture.into());
        self
    }

    /// Adds an annotation to the manifest: the cheapest way to another digest.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }

    /// As Docker's image manifest version 2, schema 2, which has no annotations.
    #[must_use]
    pub fn docker(mut self) -> Self {
        self.docker = true;
        self
    }

    /// Makes it.
    pub fn build(self) -> Artifact {
        let mut pack = Pack::default();
        let (manifest, config, layer) = if self.docker {
            (media::DOCKER_MANIFEST, media::DOCKER_CONFIG, media::DOCKER_LAYER)
        } else {
            (media::OCI_MANIFEST, media::OCI_CONFIG, media::OCI_LAYER)
        };
        let mut made: Vec<Layer> =
            self.layers.iter().map(|(seed, size)| layer::tar_gz(&[("data", &random_bytes(*seed, *size))])).collect();
        made.extend((0..self.empty).map(|_| Layer { bytes: Vec::new(), diff_id: Digest::of(b"") }));
        let diff_ids: Vec<&Digest> = made.iter().map(|layer| &layer.diff_id).collect();
        let config = pack.blob(
            config,
            to_vec(&json!({
                "created": "2026-01-02T03:04:05Z", "architecture": self.platform.1, "os": self.platform.0,
                "config": {"Labels": {"transship.seed": self.seed.to_string()}},
                "rootfs": {"type": "layers", "diff_ids": diff_ids},
            })),
        );
        let layers: Vec<Value> = made.into_iter().map(|made| pack.blob(layer, made.bytes)).collect();
        let mut json = json!({"schemaVersion": 2, "mediaType": manifest, "config": config, "layers": layers});
        if !self.annotations.is_empty() {
            json["annotations"] = json!(self.annotations);
        }
        pack.finish(manifest, &json)
    }
}

/// An image for several platforms.
#[derive(Clone, Debug)]
pub struct Index {
    image: Image,
    platforms: usize,
    attested: bool,
}

impl Index {
    /// An OCI index of images for two platforms.
    pub fn random(seed: u64) -> Self {
        Self { image: Image::random(seed), platforms: 2, attested: false }
    }

    /// For `n` platforms.
    #[must_use]
    pub fn platforms(mut self, n: usize) -> Self {
        self.platforms = n;
        self
    }

    /// Each platform's image gets `n` layers of a little more than `size` bytes.
    #[must_use]
    pub fn layers(mut self, n: usize, size: usize) -> Self {
        self.image = self.image.layers(n, size);
        self
    }

    /// Layers that all platforms have in common.
    #[must_use]
    pub fn base(mut self, base: u64, n: usize, size: usize) -> Self {
        self.image = self.image.base(base, n, size);
        self
    }

    /// With a provenance attestation for each platform, as docker buildx adds it: a child for the platform unknown/unknown.
    #[must_use]
    pub fn attested(mut self) -> Self {
        self.attested = true;
        self
    }

    /// As Docker's manifest list.
    #[must_use]
    pub fn docker(mut self) -> Self {
        self.image = self.image.docker();
        self
    }

    /// Makes it.
    pub fn build(self) -> Artifact {
        const ARCHITECTURES: [&str; 6] = ["amd64", "arm64", "s390x", "ppc64le", "riscv64", "386"];
        let mut pack = Pack::default();
        let mut children = Vec::new();
        for i in 0..self.platforms {
            let architecture = ARCHITECTURES.get(i).map_or_else(|| format!("arch{i}"), ToString::to_string);
            // A platform's own layers differ, what is common to all (the base) does not.
            let mut image = self.image.clone().platform("linux", &architecture);
            let own: Vec<u64> = (0..image.layers.len()).map(|n| seed_of(self.image.seed, &format!("layer {n}"))).collect();
            for layer in &mut image.layers {
                if own.contains(&layer.0) {
                    layer.0 = seed_of(layer.0, &architecture);
                }
            }
            let image = image.build();
            let mut child = descriptor(image.root());
            child["platform"] = json!({"os": "linux", "architecture": architecture});
            let subject = image.digest().clone();
            children.push(child);
            pack.absorb(image);
            if self.attested {
                let attestation = attestation(&subject);
                let mut child = descriptor(attestation.root());
                child["platform"] = json!({"os": "unknown", "architecture": "unknown"});
                child["annotations"] = json!({
                    "vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": subject,
                });
                children.push(child);
                pack.absorb(attestation);
            }
        }
        let media_type = if self.image.docker { media::DOCKER_LIST } else { media::OCI_INDEX };
        pack.finish(media_type, &json!({"schemaVersion": 2, "mediaType": media_type, "manifests": children}))
    }
}

/// What docker buildx puts beside a platform's image.
fn attestation(subject: &Digest) -> Artifact {
    let mut pack = Pack::default();
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://slsa.dev/provenance/v0.2",
        "subject": [{"name": "_", "digest": {"sha256": subject.hex()}}], "predicate": {},
    });
    let statement = to_vec(&statement);
    let diff_ids = [Digest::of(&statement)];
    let config = json!({
        "architecture": "unknown", "os": "unknown", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = pack.blob(media::OCI_CONFIG, to_vec(&config));
    let mut layer = pack.blob(media::IN_TOTO, statement);
    layer["annotations"] = json!({"in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2"});
    pack.finish(media::OCI_MANIFEST, &oci_manifest(&config, &[layer]))
}

/// A Helm chart, as `helm push` makes it.
pub fn chart(seed: u64, name: &str, version: &str) -> Artifact {
    let mut pack = Pack::default();
    let metadata = format!("apiVersion: v2\nname: {name}\nversion: {version}\n");
    let config = pack.blob(
        media::HELM_CONFIG,
        to_vec(&json!({"name": name, "version": version, "apiVersion": "v2", "type": "application"})),
    );
    let values = format!("seed: {seed}\n");
    let files: [(&str, &[u8]); 2] =
        [(&format!("{name}/Chart.yaml"), metadata.as_bytes()), (&format!("{name}/values.yaml"), values.as_bytes())];
    let layer = pack.blob(media::HELM_CONTENT, layer::tar_gz(&files).bytes);
    pack.finish(media::OCI_MANIFEST, &oci_manifest(&config, &[layer]))
}

/// An artifact that is neither image nor chart: an `artifactType`, the empty config and a blob of `size` bytes.
pub fn artifact(seed: u64, artifact_type: &str, size: usize) -> Artifact {
    let mut pack = Pack::default();
    let config = pack.blob(media::EMPTY, b"{}".to_vec());
    let layer = pack.blob("application/octet-stream", random_bytes(seed_of(seed, "artifact"), size));
    let mut json = oci_manifest(&config, &[layer]);
    json["artifactType"] = json!(artifact_type);
    pack.finish(media::OCI_MANIFEST, &json)
}

/// A signature as cosign attaches it by tag: to be pushed to `subject.digest().as_tag(".sig")`.
pub fn cosign_signature(subject: &Artifact) -> Artifact {
    let mut pack = Pack::default();
    let payload = json!({"critical": {
        "identity": {"docker-reference": ""}, "image": {"docker-manifest-digest": subject.digest()},
        "type": "cosign container image signature",
    }, "optional": null});
    let payload = to_vec(&payload);
    let config = json!({
        "architecture": "", "os": "", "config": {}, "rootfs": {"type": "layers", "diff_ids": [Digest::of(&payload)]},
    });
    let config = pack.blob(media::OCI_CONFIG, to_vec(&config));
    let mut layer = pack.blob(media::COSIGN_PAYLOAD, payload);
    layer["annotations"] = json!({"dev.cosignproject.cosign/signature": "bm90IGEgc2lnbmF0dXJl"});
    pack.finish(media::OCI_MANIFEST, &oci_manifest(&config, &[layer]))
}

/// Something that refers to `subject` (a signature, a bill of materials): to be pushed by digest, and where the registry has
/// no referrers API, to be listed in a [`referrers_index`].
pub fn referrer(seed: u64, subject: &Artifact, artifact_type: &str) -> Artifact {
    let mut pack = Pack::default();
    let config = pack.blob(media::EMPTY, b"{}".to_vec());
    let content = format!("{artifact_type} no. {seed} of {}", subject.digest());
    let layer = pack.blob("text/plain", content.into_bytes());
    let mut json = oci_manifest(&config, &[layer]);
    json["artifactType"] = json!(artifact_type);
    json["subject"] = descriptor(subject.root());
    json["annotations"] = json!({"org.opencontainers.image.created": "2026-01-02T03:04:05Z"});
    pack.finish(media::OCI_MANIFEST, &json)
}

/// The index of the referrers tag schema: to be pushed to `subject.digest().as_tag("")`. It brings the referrers with it.
pub fn referrers_index(referrers: &[Artifact]) -> Artifact {
    let mut pack = Pack::default();
    let mut children = Vec::new();
    for referrer in referrers {
        let mut child = descriptor(referrer.root());
        let json = referrer.root().json();
        child["artifactType"] = json["artifactType"].clone();
        child["annotations"] = json["annotations"].clone();
        children.push(child);
        pack.absorb(referrer.clone());
    }
    pack.finish(media::OCI_INDEX, &json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": children}))
}

/// An artifact that is being put together.
#[derive(Default)]
struct Pack {
    manifests: Vec<Manifest>,
    blobs: BTreeMap<Digest, Bytes>,
}

impl Pack {
    /// Adds a blob; its descriptor.
    fn blob(&mut self, media_type: impl Display, bytes: Vec<u8>) -> Value {
        let digest = Digest::of(&bytes);
        let descriptor = json!({"mediaType": media_type.to_string(), "digest": digest, "size": bytes.len()});
        self.blobs.insert(digest, bytes.into());
        descriptor
    }

    fn absorb(&mut self, other: Artifact) {
        self.blobs.extend(other.blobs);
        for manifest in other.manifests {
            if !self.manifests.contains(&manifest) {
                self.manifests.push(manifest);
            }
        }
    }

    fn finish(mut self, media_type: &str, json: &Value) -> Artifact {
        let bytes: Bytes = to_vec(json).into();
        self.manifests.push(Manifest { digest: Digest::of(&bytes), bytes, media_type: media_type.into() });
        Artifact { manifests: self.manifests, blobs: self.blobs }
    }
}

fn oci_manifest(config: &Value, layers: &[Value]) -> Value {
    json!({"schemaVersion": 2, "mediaType": media::OCI_MANIFEST, "config": config, "layers": layers})
}

fn descriptor(manifest: &Manifest) -> Value {
    json!({"mediaType": manifest.media_type, "digest": manifest.digest, "size": manifest.bytes.len()})
}

fn to_vec(json: &Value) -> Vec<u8> {
    // Indented, as Docker writes manifests: a copy that re-encodes JSON gets another digest and is caught.
    serde_json::to_vec_pretty(json).expect("JSON")
}
