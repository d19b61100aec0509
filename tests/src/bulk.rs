//! Very many tags at once: written as docker-registry's storage has them, because pushing them would take minutes.

use std::{fs, path::Path};

use bytes::Bytes;
use serde_json::json;
use transship_model::Digest;

use crate::{Artifact, Image, Manifest, media};

/// `repositories` times `tags` images that share one layer and one config; each has a manifest, so a digest, of its own.
#[derive(Clone, Debug)]
pub struct Bulk {
    namespace: String,
    repositories: usize,
    tags: usize,
    image: Artifact,
}

impl Bulk {
    /// Repositories `<namespace>/repo-0000` … with tags `v0000` … each.
    pub fn new(namespace: &str, repositories: usize, tags: usize) -> Self {
        let image = Image::random(0).layers(1, 1 << 10).build();
        Self { namespace: namespace.into(), repositories, tags, image }
    }

    /// The repositories, in order.
    pub fn repositories(&self) -> Vec<String> {
        (0..self.repositories).map(|i| format!("{}/repo-{i:04}", self.namespace)).collect()
    }

    /// The tags of each repository, in order.
    pub fn tags(&self) -> Vec<String> {
        (0..self.tags).map(|i| format!("v{i:04}")).collect()
    }

    /// How many tags there are in all.
    pub fn len(&self) -> usize {
        self.repositories * self.tags
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The manifest of a tag.
    pub fn manifest(&self, repository: &str, tag: &str) -> Manifest {
        let mut json = self.image.root().json();
        json["annotations"] = json!({"org.opencontainers.image.ref.name": format!("{repository}:{tag}")});
        let bytes = Bytes::from(json.to_string());
        Manifest { digest: Digest::of(&bytes), bytes, media_type: media::OCI_MANIFEST.into() }
    }

    /// Writes the storage of docker-registry 2.8 below `data`: content by digest, and links to it.
    pub(crate) fn write(&self, data: &Path) {
        let root = data.join("docker/registry/v2");
        let content = |digest: &Digest, bytes: &[u8]| {
            put(&root.join("blobs/sha256").join(&digest.hex()[..2]).join(digest.hex()).join("data"), bytes);
        };
        for (digest, bytes) in self.image.blobs() {
            content(digest, bytes);
        }
        let tags = self.tags();
        for name in self.repositories() {
            let repository = root.join("repositories").join(&name);
            let link = |path: String, digest: &Digest| put(&repository.join(path).join("link"), digest.as_str().as_bytes());
            for digest in self.image.blobs().keys() {
                link(format!("_layers/sha256/{}", digest.hex()), digest);
            }
            for tag in &tags {
                let manifest = self.manifest(&name, tag);
                let (digest, hex) = (&manifest.digest, manifest.digest.hex());
                content(digest, &manifest.bytes);
                link(format!("_manifests/revisions/sha256/{hex}"), digest);
                link(format!("_manifests/tags/{tag}/index/sha256/{hex}"), digest);
                link(format!("_manifests/tags/{tag}/current"), digest);
            }
        }
    }
}

fn put(path: &Path, content: &[u8]) {
    fs::create_dir_all(path.parent().expect("a file is in a directory")).expect("a directory of the storage");
    fs::write(path, content).expect("a file of the storage");
}
