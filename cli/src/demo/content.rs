//! What the demo pushes, and the proof that it has arrived.
//!
//! Everything is made here, the same each time: a multi-platform image with a signature and a bill of materials, and a Helm
//! chart. They are real: `skopeo copy` and `helm pull` take them from the demo's registries.

use std::collections::{BTreeMap, HashSet, VecDeque};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use reqwest::{Client, Response, StatusCode, header};
use serde_json::{Value, json};
use transship_model::{Digest, Reference, Repository};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An artifact of the demo: its manifests and blobs, and the place that it is pushed to.
pub(crate) struct Artifact {
    /// What it is, in a word or two.
    pub(crate) what: &'static str,
    /// The repository.
    pub(crate) repository: Repository,
    /// The tag; the digest, for what refers to its subject by itself.
    pub(crate) reference: Reference,
    /// Children first, the root last.
    manifests: Vec<Manifest>,
    blobs: BTreeMap<Digest, Bytes>,
}

/// A manifest as it is pushed.
#[derive(Clone)]
pub(crate) struct Manifest {
    /// Its media type.
    pub(crate) media_type: String,
    /// Its digest.
    pub(crate) digest: Digest,
    /// Its exact bytes.
    pub(crate) bytes: Bytes,
}

/// Everything that the demo pushes, in the order in which a release would push it.
pub(crate) fn release() -> anyhow::Result<Vec<Artifact>> {
    let image = image()?;
    let (signature, sbom) = (signature(&image)?, sbom(&image)?);
    Ok(vec![image, signature, sbom, chart()?])
}

/// An image for two platforms that have their first layer in common: about 20 MiB in all.
fn image() -> anyhow::Result<Artifact> {
    let mut parts = Parts::default();
    let base = tar("usr/lib/base.bin", &noise(1, 6 << 20));
    let mut children = Vec::new();
    for (seed, architecture) in [(10, "amd64"), (20, "arm64")] {
        let app = tar("app/server", &noise(seed, 4 << 20));
        let assets = tar("app/assets.bin", &noise(seed + 1, 3 << 20));
        let layers = [base.clone(), app, assets];
        let config = json!({
            "created": "2026-01-01T00:00:00Z", "architecture": architecture, "os": "linux",
            "config": {"Entrypoint": ["/app/server"]},
            "rootfs": {"type": "layers", "diff_ids": layers.each_ref().map(|layer| Digest::of(layer))},
        });
        let config = parts.blob("application/vnd.oci.image.config.v1+json", config.to_string().into());
        let layers = layers.map(|layer| parts.blob("application/vnd.oci.image.layer.v1.tar", layer));
        let mut child = parts.manifest(MANIFEST, &json!({"config": config, "layers": layers}));
        child["platform"] = json!({"os": "linux", "architecture": architecture});
        children.push(child);
    }
    parts.manifest(INDEX, &json!({"manifests": children}));
    parts.finish("image", "shop/web", "1.4.2")
}

/// A signature of the image, attached by tag as cosign does it. (What it signs with is for show.)
fn signature(image: &Artifact) -> anyhow::Result<Artifact> {
    let mut parts = Parts::default();
    let payload = json!({"critical": {
        "identity": {"docker-reference": image.repository}, "image": {"docker-manifest-digest": image.root().digest},
        "type": "cosign container image signature",
    }, "optional": null});
    let payload = Bytes::from(payload.to_string());
    let config = json!({
        "architecture": "", "os": "", "config": {}, "rootfs": {"type": "layers", "diff_ids": [Digest::of(&payload)]},
    });
    let config = parts.blob("application/vnd.oci.image.config.v1+json", config.to_string().into());
    let mut layer = parts.blob("application/vnd.dev.cosign.simplesigning.v1+json", payload);
    layer["annotations"] = json!({"dev.cosignproject.cosign/signature": "Zm9yIHNob3c="});
    parts.manifest(MANIFEST, &json!({"config": config, "layers": [layer]}));
    parts.finish("signature", image.repository.as_str(), image.root().digest.as_tag(".sig").as_str())
}

/// A bill of materials of the image, attached by `subject`: it has no tag, the registry lists it as a referrer.
fn sbom(image: &Artifact) -> anyhow::Result<Artifact> {
    const SPDX: &str = "application/spdx+json";
    let mut parts = Parts::default();
    let config = parts.blob("application/vnd.oci.empty.v1+json", "{}".into());
    let document =
        json!({"spdxVersion": "SPDX-2.3", "name": "shop/web", "packages": [{"name": "server", "versionInfo": "1.4.2"}]});
    let layer = parts.blob(SPDX, document.to_string().into());
    let subject = image.root().descriptor();
    parts.manifest(MANIFEST, &json!({"artifactType": SPDX, "config": config, "layers": [layer], "subject": subject}));
    let digest = parts.manifests[0].digest.to_string();
    parts.finish("bill of materials", image.repository.as_str(), &digest)
}

/// A Helm chart.
fn chart() -> anyhow::Result<Artifact> {
    let mut parts = Parts::default();
    let metadata =
        json!({"apiVersion": "v2", "name": "web", "version": "1.4.2", "description": "The web shop", "type": "application"});
    // JSON is YAML.
    let archive = gzip(&tar("web/Chart.yaml", metadata.to_string().as_bytes()));
    let config = parts.blob("application/vnd.cncf.helm.config.v1+json", metadata.to_string().into());
    let layer = parts.blob("application/vnd.cncf.helm.chart.content.v1.tar+gzip", archive);
    parts.manifest(MANIFEST, &json!({"config": config, "layers": [layer]}));
    parts.finish("Helm chart", "shop/charts/web", "1.4.2")
}

impl Artifact {
    /// The manifest that `reference` names.
    pub(crate) fn root(&self) -> &Manifest {
        // `Parts::finish` saw to it that there is one.
        &self.manifests[self.manifests.len() - 1]
    }

    /// Bytes in all its blobs.
    pub(crate) fn size(&self) -> u64 {
        self.blobs.values().map(|blob| blob.len() as u64).sum()
    }

    /// Pushes it to the registry at this URL: blobs, children, then the root.
    ///
    /// # Errors
    /// What the registry did not take, and what it said.
    pub(crate) async fn push(&self, http: &Client, registry: &str) -> anyhow::Result<()> {
        let repository = format!("{registry}/v2/{}", self.repository);
        for (digest, blob) in &self.blobs {
            let begun = taken(StatusCode::ACCEPTED, http.post(format!("{repository}/blobs/uploads/"))).await?;
            let location = begun.headers().get(header::LOCATION).context("an upload without a Location")?.to_str()?;
            let mut location = begun.url().join(location)?;
            location.query_pairs_mut().append_pair("digest", digest.as_str());
            taken(StatusCode::CREATED, http.put(location).body(blob.clone())).await?;
        }
        for manifest in &self.manifests {
            let reference =
                if manifest.digest == self.root().digest { self.reference.to_string() } else { manifest.digest.to_string() };
            let put = http.put(format!("{repository}/manifests/{reference}"));
            let put = put.header(header::CONTENT_TYPE, &manifest.media_type).body(manifest.bytes.clone());
            taken(StatusCode::CREATED, put).await?;
        }
        Ok(())
    }
}

impl Manifest {
    fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len()})
    }
}

/// A repository at one end of the demo.
pub(crate) struct End<'a> {
    /// The registry's URL.
    pub(crate) registry: &'a str,
    /// The repository there.
    pub(crate) repository: &'a Repository,
}

/// Something that is at the target exactly as it is at the source.
#[derive(Debug)]
pub(crate) struct Verified {
    /// What it is: `index`, `manifest linux/amd64`, `layer`, `referrer application/spdx+json`.
    pub(crate) name: String,
    /// The digest, computed anew from what the target has.
    pub(crate) digest: Digest,
    /// Its size.
    pub(crate) bytes: u64,
}

/// Reads back from the target what `reference` leads to at the source: manifests, blobs, signatures by tag and referrers; each
/// is hashed again, and each manifest compared byte for byte.
///
/// # Errors
/// The first difference.
pub(crate) async fn verify(
    http: &Client,
    source: &End<'_>,
    target: &End<'_>,
    reference: &Reference,
) -> anyhow::Result<Vec<Verified>> {
    let mut verified = Vec::new();
    let mut seen = HashSet::new();
    let mut todo = VecDeque::from([("manifest".to_owned(), reference.clone())]);
    while let Some((mut name, reference)) = todo.pop_front() {
        let want = source.manifest(http, &reference).await?.with_context(|| format!("{source} has no {reference}"))?;
        let got = target.manifest(http, &reference).await?.with_context(|| format!("{name}: {target} has no {reference}"))?;
        ensure!(
            got.bytes == want.bytes && got.media_type == want.media_type,
            "{name} {reference}: {target} has {} ({}), {source} has {} ({})",
            got.digest,
            got.media_type,
            want.digest,
            want.media_type
        );
        if !seen.insert(want.digest.clone()) {
            continue;
        }
        let json: Value = serde_json::from_slice(&want.bytes).with_context(|| format!("{reference} is not JSON"))?;
        if json["manifests"].is_array() {
            name = "index".into();
        }
        verified.push(Verified { name, digest: got.digest, bytes: got.bytes.len() as u64 });
        for child in json["manifests"].as_array().into_iter().flatten() {
            let platform = &child["platform"];
            let text = |key: &str| platform[key].as_str().unwrap_or("unknown");
            todo.push_back((format!("manifest {}/{}", text("os"), text("architecture")), Reference::Digest(digest_of(child)?)));
        }
        let layers = json["layers"].as_array().into_iter().flatten().map(|layer| ("layer", layer));
        for (name, blob) in json.get("config").map(|config| ("config", config)).into_iter().chain(layers) {
            let digest = digest_of(blob)?;
            if seen.insert(digest.clone()) {
                let bytes = target.blob(http, &digest).await.with_context(|| format!("{name} {digest}: {target}"))?;
                ensure!(Some(bytes) == blob["size"].as_u64(), "{name} {digest}: {target} has {bytes} bytes of it");
                verified.push(Verified { name: name.into(), digest, bytes });
            }
        }
        for referrer in source.referrers(http, &want.digest).await? {
            let kind = referrer["artifactType"].as_str().unwrap_or("of no type");
            let digest = digest_of(&referrer)?;
            let listed = target.referrers(http, &want.digest).await?;
            ensure!(
                listed.iter().any(|entry| entry["digest"] == digest.as_str()),
                "{target} does not list the referrer {digest} ({kind}) of {}",
                want.digest
            );
            todo.push_back((format!("referrer {kind}"), Reference::Digest(digest)));
        }
        let signature = Reference::Tag(want.digest.as_tag(".sig"));
        if source.manifest(http, &signature).await?.is_some() {
            todo.push_back(("signature".into(), signature));
        }
    }
    Ok(verified)
}

impl std::fmt::Display for End<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.registry.trim_start_matches("http://"), self.repository)
    }
}

impl End<'_> {
    fn url(&self, path: &str) -> String {
        format!("{}/v2/{}/{path}", self.registry, self.repository)
    }

    /// A manifest, if it is there.
    async fn manifest(&self, http: &Client, reference: &Reference) -> anyhow::Result<Option<Manifest>> {
        let get = http.get(self.url(&format!("manifests/{reference}"))).header(header::ACCEPT, format!("{MANIFEST}, {INDEX}"));
        let answer = get.send().await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let answer = answer.error_for_status()?;
        let media_type = answer.headers().get(header::CONTENT_TYPE).context("a manifest without a type")?.to_str()?.to_owned();
        let bytes = answer.bytes().await?;
        let digest = Digest::of(&bytes);
        if let Reference::Digest(asked) = reference {
            ensure!(digest == *asked, "{self} has {digest} under the digest {asked}");
        }
        Ok(Some(Manifest { media_type, digest, bytes }))
    }

    /// Reads a blob to its end and hashes it; its size.
    async fn blob(&self, http: &Client, digest: &Digest) -> anyhow::Result<u64> {
        let answer = http.get(self.url(&format!("blobs/{digest}"))).send().await?.error_for_status()?;
        let bytes = answer.bytes().await?;
        let got = Digest::of(&bytes);
        ensure!(got == *digest, "what is there has the digest {got}");
        Ok(bytes.len() as u64)
    }

    /// The descriptors of what refers to a manifest; none if the registry has no such API.
    async fn referrers(&self, http: &Client, subject: &Digest) -> anyhow::Result<Vec<Value>> {
        let answer = http.get(self.url(&format!("referrers/{subject}"))).send().await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(Vec::new());
        }
        let mut index: Value = answer.error_for_status()?.json().await?;
        Ok(serde_json::from_value(index["manifests"].take())?)
    }
}

/// The answer, if it is the one that the protocol foresees.
async fn taken(status: StatusCode, request: reqwest::RequestBuilder) -> anyhow::Result<Response> {
    let answer = request.send().await?;
    let (got, url) = (answer.status(), answer.url().clone());
    if got == status {
        return Ok(answer);
    }
    anyhow::bail!("{url} answered {got}: {}", answer.text().await.unwrap_or_default())
}

fn digest_of(descriptor: &Value) -> anyhow::Result<Digest> {
    let digest = descriptor["digest"].as_str().context("a descriptor without a digest")?;
    digest.parse().with_context(|| format!("the digest of {descriptor}"))
}

/// An artifact that is being put together.
#[derive(Default)]
struct Parts {
    manifests: Vec<Manifest>,
    blobs: BTreeMap<Digest, Bytes>,
}

impl Parts {
    /// Adds a blob; its descriptor.
    fn blob(&mut self, media_type: &str, bytes: Bytes) -> Value {
        let digest = Digest::of(&bytes);
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
        self.blobs.insert(digest, bytes);
        descriptor
    }

    /// Adds a manifest with these fields; its descriptor.
    fn manifest(&mut self, media_type: &str, fields: &Value) -> Value {
        let mut json = fields.clone();
        json["schemaVersion"] = json!(2);
        json["mediaType"] = json!(media_type);
        let bytes = Bytes::from(json.to_string());
        let manifest = Manifest { media_type: media_type.into(), digest: Digest::of(&bytes), bytes };
        let descriptor = manifest.descriptor();
        self.manifests.push(manifest);
        descriptor
    }

    fn finish(self, what: &'static str, repository: &str, reference: &str) -> anyhow::Result<Artifact> {
        ensure!(!self.manifests.is_empty(), "{what} without a manifest");
        let (repository, reference) = (repository.parse()?, reference.parse()?);
        Ok(Artifact { what, repository, reference, manifests: self.manifests, blobs: self.blobs })
    }
}

/// Bytes that no compression makes smaller, the same for the same seed (SplitMix64).
fn noise(mut seed: u64, size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = seed;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// An archive of one file (POSIX ustar).
fn tar(name: &str, content: &[u8]) -> Bytes {
    let mut header = [0; 512];
    let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000755\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", content.len()).as_bytes());
    put(136, b"00000000000\0        0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = [&header, content].concat();
    // Whole blocks, and two empty ones at the end.
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    archive.into()
}

/// gzip (RFC 1952) with one block that is stored as it is: for an archive of less than 64 KiB.
fn gzip(data: &[u8]) -> Bytes {
    let crc = data.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    });
    let length = data.len() as u16;
    let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 1];
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&(!length).to_le_bytes());
    bytes.extend_from_slice(data);
    bytes.extend_from_slice(&(!crc).to_le_bytes());
    bytes.extend_from_slice(&(data.len() as u32).to_le_bytes());
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::{super::registry::DemoRegistry, *};

    #[tokio::test]
    async fn what_is_the_same_at_both_ends_is_verified_and_what_is_missing_is_named() {
        let http = Client::builder().no_proxy().build().unwrap();
        let (source, target) = (DemoRegistry::start().await.unwrap(), DemoRegistry::start().await.unwrap());
        let (here, there) = (source.url(), target.url());
        let release = release().unwrap();
        let [image, signature, sbom, chart] = &release[..] else { panic!("four artifacts") };
        for artifact in &release {
            artifact.push(&http, &here).await.unwrap();
        }
        let check = async |artifact: &Artifact| {
            let source = End { registry: &here, repository: &artifact.repository };
            let target = End { registry: &there, repository: &artifact.repository };
            verify(&http, &source, &target, &artifact.reference).await
        };
        let arrivals = [(image, "has no 1.4.2"), (sbom, "does not list the referrer"), (signature, "signature: 127.0.0.1")];
        for (arrives, missed_before) in arrivals {
            let error = check(image).await.unwrap_err().to_string();
            assert!(error.contains(missed_before), "{error}");
            arrives.push(&http, &there).await.unwrap();
        }
        let verified = check(image).await.unwrap();
        let names: Vec<&str> = verified.iter().map(|verified| &*verified.name).collect();
        for name in ["index", "manifest linux/arm64", "config", "layer", "referrer application/spdx+json", "signature"] {
            assert!(names.contains(&name), "{name} in {names:?}");
        }
        let blobs: u64 = verified.iter().map(|verified| verified.bytes).sum();
        assert!(blobs > image.size());
        assert!(image.size() > 19 << 20);

        chart.push(&http, &there).await.unwrap();
        assert_eq!(check(chart).await.unwrap().len(), 3);
    }
}
