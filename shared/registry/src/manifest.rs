//! Manifests: exact bytes, and what they refer to.

use bytes::Bytes;
use oci_client::manifest::{
    IMAGE_CONFIG_MEDIA_TYPE, IMAGE_DOCKER_CONFIG_MEDIA_TYPE, IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE,
    OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE,
};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::{Map, Value};
use transship_model::{ArtifactType, Digest};

/// The OCI 1.1 release candidates' artifact manifest: withdrawn, and still found in registries.
const OCI_ARTIFACT_MEDIA_TYPE: &str = "application/vnd.oci.artifact.manifest.v1+json";
const SCHEMA_1: [&str; 2] =
    ["application/vnd.docker.distribution.manifest.v1+prettyjws", "application/vnd.docker.distribution.manifest.v1+json"];
const HELM_CONFIG: &str = "application/vnd.cncf.helm.config.v1+json";

/// What we say that we understand. Schema 1 is in it so that it can be named, not just missed.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.oci.artifact.manifest.v1+json, application/vnd.docker.distribution.manifest.v1+prettyjws;q=0.1, */*;q=0.1";

/// The greatest manifest that is read: what the specification asks registries to support, and what they do support.
pub(crate) const MAX_SIZE: usize = 4 << 20;

/// The greatest size that a descriptor may claim, 16 TiB: as many as a manifest has room for add up without overflow.
const MAX_BLOB: u64 = 1 << 44;

fn plausible<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let size = u64::deserialize(deserializer)?;
    if size > MAX_BLOB { Err(serde::de::Error::custom(format!("a size of {size} bytes is not plausible"))) } else { Ok(size) }
}

/// A descriptor: image specification 1.1, "OCI Content Descriptors". It keeps fields that it does not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// The type of the content.
    #[serde(rename = "mediaType", default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes, at most 16 TiB. A negative one, or a greater one, can't be parsed.
    #[serde(deserialize_with = "plausible")]
    pub size: u64,
    /// Annotations, platform, artifact type and whatever else there is.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl Descriptor {
    /// A descriptor with nothing but the three fields that each has.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self { media_type: media_type.into(), digest, size, rest: Map::new() }
    }

    /// The value of an annotation.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.rest.get("annotations")?.get(name)?.as_str()
    }

    /// Whether a child of an index is content of its own, not a note about another child: BuildKit puts its attestations
    /// into the index as manifests for the platform `unknown`.
    pub(crate) fn is_note(&self) -> bool {
        self.annotation(NOTE).is_some()
    }

    /// Whether it is an index, or Docker's manifest list.
    pub(crate) fn is_index(&self) -> bool {
        [OCI_IMAGE_INDEX_MEDIA_TYPE, IMAGE_MANIFEST_LIST_MEDIA_TYPE].contains(&self.media_type.as_str())
    }

    /// Whether a child of an index is a manifest. BuildKit's cache is an index of layers.
    pub(crate) fn is_manifest(&self) -> bool {
        let known = [
            OCI_IMAGE_INDEX_MEDIA_TYPE,
            OCI_IMAGE_MEDIA_TYPE,
            IMAGE_MANIFEST_LIST_MEDIA_TYPE,
            IMAGE_MANIFEST_MEDIA_TYPE,
            OCI_ARTIFACT_MEDIA_TYPE,
        ];
        known.contains(&self.media_type.as_str()) || SCHEMA_1.contains(&self.media_type.as_str())
    }

    /// Whether the content may be elsewhere than in the registry: told by the media type alone, as the image specification
    /// has it ("Non-Distributable Layers"; Docker called them foreign). It is not uploaded, the manifest keeps it.
    pub(crate) fn is_foreign(&self) -> bool {
        matches!(
            self.media_type.as_str(),
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
                | "application/vnd.oci.image.layer.nondistributable.v1.tar"
                | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
                | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
        )
    }
}

/// A manifest as a registry has it. It is stored and sent byte for byte: encoded anew it would have another digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its media type, digest and size.
    pub descriptor: Descriptor,
    /// The bytes that the digest is of.
    pub bytes: Bytes,
}

impl Manifest {
    /// A manifest from its bytes.
    pub fn new(media_type: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { descriptor: Descriptor::new(media_type, Digest::of(&bytes), bytes.len() as u64), bytes }
    }
}

/// What a manifest refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// An index, or Docker's manifest list.
    Index(Vec<Descriptor>),
    /// A manifest proper: its config, if it has one, and its layers.
    Image {
        /// The config.
        config: Option<Descriptor>,
        /// The layers, or the blobs of an artifact manifest.
        layers: Vec<Descriptor>,
    },
    /// Docker schema 1.
    Schema1,
}

/// A manifest that has been understood: what a copy goes by. Its descriptors have no fields but those that every descriptor has, the
/// artifact type, and BuildKit's annotation: 4 MiB of JSON that somebody has made up may have two million values, and each of
/// them would take many times its text in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parsed {
    pub(crate) content: Content,
    /// What it is attached to, if to anything.
    pub(crate) subject: Option<Digest>,
    /// The type of artifact that it says it is.
    pub(crate) artifact_type: Option<String>,
}

/// By this annotation BuildKit says what a note in an index is about.
const NOTE: &str = "vnd.docker.reference.type";

/// What is kept of a descriptor in a manifest.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Lean {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    #[serde(deserialize_with = "plausible")]
    size: u64,
    artifact_type: Option<String>,
    annotations: Option<Annotations>,
}

#[derive(Deserialize)]
struct Annotations {
    #[serde(rename = "vnd.docker.reference.type")]
    note: Option<String>,
}

impl From<Lean> for Descriptor {
    fn from(lean: Lean) -> Self {
        let mut descriptor = Self::new(lean.media_type, lean.digest, lean.size);
        if let Some(artifact_type) = lean.artifact_type {
            descriptor.rest.insert("artifactType".into(), artifact_type.into());
        }
        if let Some(note) = lean.annotations.and_then(|annotations| annotations.note) {
            descriptor.rest.insert("annotations".into(), Map::from_iter([(NOTE.to_owned(), note.into())]).into());
        }
        descriptor
    }
}

impl Parsed {
    /// Understands a manifest by its shape, because `Content-Type` and `mediaType` may contradict each other. One that
    /// could be read in two ways is refused (CVE-2021-41190).
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Raw {
            media_type: Option<String>,
            manifests: Option<Vec<Lean>>,
            config: Option<Lean>,
            layers: Option<Vec<Lean>>,
            blobs: Option<Vec<Lean>>,
            fs_layers: Option<IgnoredAny>,
            subject: Option<Lean>,
            artifact_type: Option<String>,
        }
        let raw: Raw = serde_json::from_slice(bytes).map_err(|error| format!("not a manifest: {error}"))?;
        let descriptors = |lean: Vec<Lean>| lean.into_iter().map(Descriptor::from).collect();
        let is_artifact = raw.blobs.is_some() || raw.media_type.as_deref() == Some(OCI_ARTIFACT_MEDIA_TYPE);
        let is_image = raw.config.is_some() || raw.layers.is_some() || raw.blobs.is_some();
        let content = match (raw.manifests, raw.fs_layers) {
            (Some(_), _) if is_image => return Err("not a manifest: both an index and an image".into()),
            (Some(manifests), None) => Content::Index(descriptors(manifests)),
            (None, Some(_)) if !is_image => Content::Schema1,
            (_, Some(_)) => return Err("not a manifest: both Docker schema 1 and another".into()),
            (None, None) if raw.config.is_none() && !is_artifact => {
                return Err(match raw.layers {
                    Some(_) => "not a manifest: an image without a config".into(),
                    None => "not a manifest: neither an index nor an image".into(),
                });
            }
            (None, None) => Content::Image {
                config: raw.config.map(Descriptor::from),
                layers: descriptors(raw.layers.or(raw.blobs).unwrap_or_default()),
            },
        };
        Ok(Self {
            content,
            subject: raw.subject.map(|subject| subject.digest),
            artifact_type: raw.artifact_type.filter(|text| !text.is_empty()),
        })
    }

    /// The same without its layers, for when these have been noted.
    pub(crate) fn without_layers(mut self) -> Self {
        if let Content::Image { layers, .. } = &mut self.content {
            *layers = Vec::new();
        }
        self
    }

    /// The manifests below an index.
    pub(crate) fn children(&self) -> impl Iterator<Item = &Descriptor> {
        let children = match &self.content {
            Content::Index(manifests) => manifests.as_slice(),
            _ => &[],
        };
        children.iter().filter(|child| child.is_manifest())
    }

    /// The blobs that have to be at the target.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        let (config, blobs, index) = match &self.content {
            Content::Index(manifests) => (None, manifests.as_slice(), true),
            Content::Image { config, layers } => (config.as_ref(), layers.as_slice(), false),
            Content::Schema1 => (None, [].as_slice(), false),
        };
        let is_elsewhere = move |blob: &Descriptor| blob.is_foreign() || (index && blob.is_manifest());
        config.into_iter().chain(blobs).filter(move |blob| !is_elsewhere(blob))
    }

    /// What kind of artifact a manifest proper is; an index is what its children are.
    pub(crate) fn artifact(&self) -> ArtifactType {
        let Content::Image { config: Some(config), .. } = &self.content else { return ArtifactType::Other };
        match config.media_type.as_str() {
            HELM_CONFIG => ArtifactType::Chart,
            IMAGE_CONFIG_MEDIA_TYPE | IMAGE_DOCKER_CONFIG_MEDIA_TYPE => ArtifactType::Image,
            _ => ArtifactType::Other,
        }
    }

    /// The descriptor under which a referrer is listed: distribution specification 1.1, "Pushing Manifests with Subject".
    pub(crate) fn as_referrer(&self, manifest: &Manifest) -> Descriptor {
        #[derive(Deserialize)]
        struct Annotated {
            annotations: Option<Map<String, Value>>,
        }
        let mut descriptor = manifest.descriptor.clone();
        let config = match &self.content {
            Content::Image { config: Some(config), .. } => Some(config.media_type.clone()),
            _ => None,
        };
        if let Some(artifact_type) = self.artifact_type.clone().or(config) {
            descriptor.rest.insert("artifactType".into(), artifact_type.into());
        }
        // Read only now, because most manifests are never listed.
        if let Ok(Annotated { annotations: Some(annotations) }) = serde_json::from_slice(&manifest.bytes) {
            descriptor.rest.insert("annotations".into(), annotations.into());
        }
        descriptor
    }
}

/// The media type of a manifest: what the answer says, unless that says nothing, then what the manifest says.
pub(crate) fn media_type(header: Option<&str>, bytes: &[u8]) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        media_type: Option<String>,
    }
    let header = header.and_then(|text| text.split(';').next()).map(str::trim).unwrap_or_default();
    if !matches!(header, "" | "application/json" | "text/plain" | "application/octet-stream") {
        return header.into();
    }
    let own = serde_json::from_slice::<Typed>(bytes).ok().and_then(|typed| typed.media_type);
    own.unwrap_or_else(|| match Parsed::read(bytes).map(|parsed| parsed.content) {
        Ok(Content::Index(_)) => OCI_IMAGE_INDEX_MEDIA_TYPE.into(),
        Ok(Content::Schema1) => SCHEMA_1[0].into(),
        _ => OCI_IMAGE_MEDIA_TYPE.into(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: &Value) -> Result<Parsed, String> {
        Parsed::read(value.to_string().as_bytes())
    }

    fn blob(media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": Digest::of(b"x"), "size": 1})
    }

    #[test]
    fn the_config_tells_what_an_artifact_is() {
        for (config, artifact) in [
            (HELM_CONFIG, ArtifactType::Chart),
            (IMAGE_CONFIG_MEDIA_TYPE, ArtifactType::Image),
            (IMAGE_DOCKER_CONFIG_MEDIA_TYPE, ArtifactType::Image),
            ("application/vnd.oci.empty.v1+json", ArtifactType::Other),
        ] {
            assert_eq!(read(&json!({"config": blob(config), "layers": []})).unwrap().artifact(), artifact);
        }
    }

    #[test]
    fn a_manifest_that_could_be_read_in_two_ways_is_refused() {
        assert!(read(&json!({"manifests": [], "layers": []})).is_err());
        assert!(read(&json!({"manifests": [], "fsLayers": []})).is_err());
        assert!(read(&json!({"config": blob("x"), "fsLayers": []})).is_err());
        assert!(Parsed::read(br#"{"manifests": [], "manifests": []}"#).is_err());
    }

    #[test]
    fn what_is_neither_an_index_nor_an_image_is_refused() {
        for (text, problem) in [
            ("", "not a manifest: EOF"),
            ("null", "not a manifest: invalid type: null"),
            ("[]", "not a manifest"),
            ("{}", "neither an index nor an image"),
            (r#"{"errors":[{"code":"UNKNOWN"}]}"#, "neither an index nor an image"),
            (r#"{"schemaVersion":2,"layers":[]}"#, "an image without a config"),
            (r#"{"manifests":{}}"#, "invalid type: map"),
            (r#"{"manifests":[1]}"#, "invalid type: integer"),
            (r#"{"config":"sha256:1","layers":[]}"#, "invalid type: string"),
            (r#"{"config":{"mediaType":"x","size":1},"layers":[]}"#, "missing field `digest`"),
            (r#"{"config":{"mediaType":"x","digest":"sha256:1","size":1}}"#, "sha256:1"),
        ] {
            let error = Parsed::read(text.as_bytes()).unwrap_err();
            assert!(error.starts_with("not a manifest") && error.contains(problem), "{text}: {error}");
        }
        // An artifact manifest of 1.1's release candidates has neither.
        assert!(read(&json!({"mediaType": OCI_ARTIFACT_MEDIA_TYPE, "artifactType": "x"})).is_ok());
        assert!(read(&json!({"blobs": [blob("x")]})).is_ok());
    }

    #[test]
    fn a_descriptor_that_says_something_twice_or_what_nobody_knows_is_refused() {
        let image = |descriptor: &str| Parsed::read(format!(r#"{{"config":{descriptor}}}"#).as_bytes()).unwrap_err();
        let digest = Digest::of(b"x");
        for (descriptor, problem) in [
            (format!(r#"{{"digest":"{digest}","digest":"{digest}","size":1}}"#), "duplicate field `digest`"),
            (format!(r#"{{"digest":"{digest}","size":1,"size":2}}"#), "duplicate field `size`"),
            (format!(r#"{{"digest":"{digest}"}}"#), "missing field `size`"),
            (format!(r#"{{"digest":"{digest}","size":"1"}}"#), "invalid type: string"),
            (format!(r#"{{"digest":"{digest}","size":1.5}}"#), "invalid type: floating point"),
            (format!(r#"{{"digest":"{digest}","size":-1}}"#), "-1"),
            (format!(r#"{{"digest":"{digest}","size":-9223372036854775808}}"#), "-9223372036854775808"),
            (format!(r#"{{"digest":"{digest}","size":9223372036854775807}}"#), "not plausible"),
            (format!(r#"{{"digest":"{digest}","size":9223372036854775808}}"#), "not plausible"),
            (format!(r#"{{"digest":"{digest}","size":99999999999999999999}}"#), "floating point"),
            (r#"{"digest":"blake3:00","size":1}"#.into(), "blake3:00"),
            (r#"{"digest":"sha256:../../x","size":1}"#.into(), "sha256:../../x"),
            (format!(r#"{{"digest":"{}","size":1}}"#, digest.as_str().to_uppercase()), "SHA256"),
        ] {
            let error = image(&descriptor);
            assert!(error.contains(problem) && error.len() < 500, "{descriptor}: {error}");
        }
    }

    #[test]
    fn what_nobody_asked_for_is_passed_over_however_deep_it_is_and_not_kept() {
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            let deep = open.repeat(1 << 18) + "1" + &close.repeat(1 << 18);
            let image = format!(r#"{{"config":{},"annotations":{deep},"x":{deep}}}"#, blob("c"));
            let parsed = Parsed::read(image.as_bytes()).unwrap();
            // An annotation that is no text is not listed either.
            assert!(!parsed.as_referrer(&Manifest::new("x", image)).rest.contains_key("annotations"));
            assert!(Parsed::read(format!(r#"{{"config":{deep}}}"#).as_bytes()).is_err());
            assert!(Parsed::read(open.repeat(1 << 18).as_bytes()).is_err());
        }
        let mut descriptor = blob("c");
        descriptor["annotations"] = json!({"a": "b"});
        descriptor["urls"] = json!(vec![0; 10_000]);
        let image = read(&json!({"config": descriptor, "layers": [descriptor], "annotations": vec![0; 10_000]})).unwrap();
        assert!(image.blobs().all(|blob| blob.rest.is_empty()), "{image:?}");
        assert_eq!(image.blobs().count(), 2);
        assert_eq!(image.without_layers().blobs().count(), 1);
    }

    #[test]
    fn foreign_layers_stay_where_they_are_and_an_index_may_hold_layers() {
        for foreign in [
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        ] {
            let image = read(&json!({"config": blob("c"), "layers": [blob(foreign), blob("l")]})).unwrap();
            assert_eq!(image.blobs().map(|b| b.media_type.as_str()).collect::<Vec<_>>(), ["c", "l"]);
        }
        let cache =
            read(&json!({"manifests": [blob("application/vnd.buildkit.cacheconfig.v0"), blob(OCI_IMAGE_MEDIA_TYPE)]})).unwrap();
        assert_eq!(cache.blobs().count(), 1);
        assert_eq!(cache.children().count(), 1);
    }

    #[test]
    fn schema_1_is_named() {
        assert_eq!(read(&json!({"schemaVersion": 1, "fsLayers": []})).unwrap().content, Content::Schema1);
        assert_eq!(read(&json!({"schemaVersion": 1, "fsLayers": [], "signatures": []})).unwrap().content, Content::Schema1);
    }

    #[test]
    fn a_descriptor_keeps_what_it_does_not_know() {
        let value = json!({"mediaType": "x", "digest": Digest::of(b"x"), "size": 1, "platform": {"os": "linux"}, "new": [1]});
        let descriptor: Descriptor = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(serde_json::to_value(descriptor).unwrap(), value);
    }

    #[test]
    fn a_referrer_is_listed_with_its_type_and_its_annotations() {
        let listed = |value: Value| {
            let manifest = Manifest::new(OCI_IMAGE_MEDIA_TYPE, value.to_string());
            let listed = Parsed::read(&manifest.bytes).unwrap().as_referrer(&manifest);
            assert_eq!((&listed.digest, listed.size), (&manifest.descriptor.digest, manifest.bytes.len() as u64));
            Value::Object(listed.rest)
        };
        let image = json!({"config": blob("c"), "layers": []});
        assert_eq!(listed(image.clone()), json!({"artifactType": "c"}));
        let typed = |artifact_type: &str| {
            let mut typed = image.clone();
            typed["artifactType"] = json!(artifact_type);
            typed["annotations"] = json!({"a": "b"});
            typed
        };
        assert_eq!(listed(typed("t")), json!({"artifactType": "t", "annotations": {"a": "b"}}));
        assert_eq!(listed(typed("")), json!({"artifactType": "c", "annotations": {"a": "b"}}));
        assert_eq!(listed(json!({"manifests": [], "artifactType": "i"})), json!({"artifactType": "i"}));
        assert_eq!(listed(json!({"manifests": []})), json!({}));
    }

    #[test]
    fn a_media_type_is_found_where_the_answer_has_none() {
        assert_eq!(media_type(Some("a/b; charset=utf-8"), b"{}"), "a/b");
        assert_eq!(media_type(Some("text/plain"), br#"{"mediaType":"c/d"}"#), "c/d");
        assert_eq!(media_type(None, br#"{"manifests":[]}"#), OCI_IMAGE_INDEX_MEDIA_TYPE);
    }
}
