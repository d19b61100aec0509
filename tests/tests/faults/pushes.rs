//! What is pushed: anything that registries hold.

use fastrand::Rng;
use transship_tests::*;

/// An artifact, where it goes, and what refers to it.
#[derive(Clone)]
pub(crate) struct Push {
    repository: String,
    tag: String,
    artifact: Artifact,
    signature: Option<Artifact>,
    referrer: Option<Artifact>,
}

impl Push {
    /// The nth.
    pub(crate) fn random(n: usize, random: &mut Rng) -> Self {
        let namespace = random.choice(["team", "parts"]).unwrap();
        let artifact = any_artifact(random);
        // One tag in each repository moves.
        let moves = random.u8(0..100) < 15;
        let attached = |of: u8, random: &mut Rng| !moves && random.u8(0..100) < of;
        let signature = attached(15, random).then(|| cosign_signature(&artifact));
        let referrer = attached(15, random).then(|| referrer(random.u64(..), &artifact, "application/vnd.example.sbom"));
        Self {
            repository: format!("{namespace}/app-{}", random.u8(0..4)),
            tag: if moves { "latest".into() } else { format!("v{n}") },
            artifact,
            signature,
            referrer,
        }
    }

    pub(crate) async fn push(&self, to: &Client) {
        let at = to.at(&self.repository, &self.tag);
        let digest = self.artifact.digest();
        self.artifact.push(&at).await;
        if let Some(signature) = &self.signature {
            signature.push(&at.with(digest.as_tag(".sig"))).await;
        }
        if let Some(referrer) = &self.referrer {
            referrers_index(std::slice::from_ref(referrer)).push(&at.with(digest.as_tag(""))).await;
        }
    }

    /// Reads all of it at both ends.
    pub(crate) async fn assert_arrived(&self, from: &DockerRegistry, to: &DockerRegistry) {
        let (source, target) = (from.at(&self.repository, &self.tag), to.at(format!("mirror/{}", self.repository), &self.tag));
        assert_same(&source, &target).await;
        let digest = self.artifact.digest();
        if self.signature.is_some() {
            let tag = digest.as_tag(".sig");
            assert_same(&source.with(&tag), &target.with(&tag)).await;
        }
        if let Some(referrer) = &self.referrer {
            let referrer = referrer.digest();
            assert_same(&source.with(referrer), &target.with(referrer)).await;
            let listed = target.with(digest.as_tag("")).manifest().await.json();
            let listed = listed["manifests"].as_array().unwrap();
            assert!(listed.iter().any(|entry| entry["digest"] == referrer.as_str()), "{target} does not list {referrer}");
        }
    }
}

fn any_artifact(random: &mut Rng) -> Artifact {
    let seed = random.u64(..);
    match random.u8(0..20) {
        0 => chart(seed, "chart", "1.0.0"),
        1 => artifact(seed, "application/vnd.example.model", any_size(random)),
        2..=5 => {
            let index = Index::random(seed).platforms(random.usize(1..4)).base(random.u64(0..3), 1, 200 << 10);
            let index = index.layers(random.usize(0..3), random.usize(1..256 << 10));
            match random.u8(0..3) {
                0 => index.docker().build(),
                1 => index.attested().build(),
                _ => index.build(),
            }
        }
        _ => {
            let mut image = Image::random(seed);
            for _ in 0..random.u8(0..4) {
                image = image.layers(1, any_size(random));
            }
            if random.bool() {
                image = image.base(random.u64(0..3), random.usize(1..3), 300 << 10);
            }
            if random.u8(0..4) == 0 {
                image = image.empty(random.usize(1..3));
            }
            if random.u8(0..3) == 0 {
                image = image.docker();
            }
            image.build()
        }
    }
}

/// Of one request, or of several: an upload of more than 16 MiB is sent in parts.
fn any_size(random: &mut Rng) -> usize {
    match random.u8(0..20) {
        0..=9 => random.usize(0..8 << 10),
        10..=15 => random.usize(8 << 10..1 << 20),
        16..=17 => random.usize(1 << 20..6 << 20),
        _ => random.usize(16 << 20..20 << 20),
    }
}
