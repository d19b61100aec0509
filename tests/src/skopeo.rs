//! Pushes by a client that is not ours: skopeo.

use std::{fs, path::Path};

use serde_json::json;
use tokio::process::Command;

use crate::{Artifact, At, install, media};

impl Artifact {
    /// Writes it as an OCI image layout (image specification 1.1, "OCI Image Layout") in which the root has the name `tag`.
    pub fn write_layout(&self, dir: &Path, tag: &str) {
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("the layout's directory");
        let manifests = self.manifests().iter().map(|manifest| (&manifest.digest, &manifest.bytes));
        for (digest, bytes) in self.blobs().iter().chain(manifests) {
            fs::write(blobs.join(digest.hex()), bytes).expect("a blob of the layout");
        }
        let root = self.root();
        let index = json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": [{
            "mediaType": root.media_type, "digest": root.digest, "size": root.bytes.len(),
            "annotations": {"org.opencontainers.image.ref.name": tag},
        }]});
        fs::write(dir.join("index.json"), index.to_string()).expect("the layout's index");
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("the layout's mark");
    }

    /// Writes it as skopeo's own directory format, the only one that it reads Docker manifests from.
    fn write_dir(&self, dir: &Path) {
        fs::write(dir.join("version"), "Directory Transport Version: 1.1\n").expect("the directory's version");
        for (digest, bytes) in self.blobs() {
            fs::write(dir.join(digest.hex()), bytes).expect("a blob of the directory");
        }
        for manifest in self.manifests() {
            let root = manifest.digest == *self.digest();
            let name = if root { "manifest.json".into() } else { format!("{}.manifest.json", manifest.digest.hex()) };
            fs::write(dir.join(name), &manifest.bytes).expect("a manifest of the directory");
        }
    }

    /// Pushes it to a tag with `skopeo copy --all`, as a user would: with its requests, its order and its user agent.
    ///
    /// # Panics
    /// If skopeo fails or would change a digest.
    pub async fn push_with_skopeo(&self, at: &At) {
        let dir = tempfile::tempdir().expect("a directory");
        let source = if self.root().media_type.contains("docker") {
            self.write_dir(dir.path());
            format!("dir:{}", dir.path().display())
        } else {
            self.write_layout(dir.path(), &at.reference);
            format!("oci:{}:{}", dir.path().display(), at.reference)
        };
        let mut command = Command::new(install::program("skopeo"));
        command.args(["--insecure-policy", "copy", "--all", "--preserve-digests", "--dest-tls-verify=false"]);
        match at.client.login() {
            Some((user, password)) => command.arg(format!("--dest-creds={user}:{password}")),
            None => command.arg("--dest-no-creds"),
        };
        command.arg(source).arg(format!("docker://{}/{}:{}", at.client.host(), at.repository, at.reference));
        let output = command.kill_on_drop(true).output().await.expect("skopeo starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "skopeo could not push to {at}: {said}");
    }
}
