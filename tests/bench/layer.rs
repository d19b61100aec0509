//! One large layer: how long it takes, and how much memory; and the same with skopeo.

use std::{
    fs,
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use reqwest::Method;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::process::Command;
use transship_model::Digest;
use transship_tests::{Client, DockerRegistry, Transship, config, instance, media, rule};

use crate::{
    figures::Figures,
    large::{self, SIZE, hex},
};

const REPOSITORY: &str = "team/large";
/// Each is measured so often, in turns, and the best counts: the page cache, and other processes, have moods.
const ROUNDS: usize = 2;

pub(crate) async fn measure(figures: &mut Figures) {
    let build = DockerRegistry::start().await;
    let (layer, manifest) = large::push(build.client(), REPOSITORY).await;
    let (mut ours, mut theirs, mut peak) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        let (took, memory) = by_transship(&build, &layer, &manifest).await;
        ours.push(took);
        peak = peak.max(memory);
        theirs.push(by_skopeo(&build, &layer, &manifest).await);
    }
    let best = |times: &[Duration]| times.iter().min().copied().unwrap_or_default();
    let rate = |time: Duration| (SIZE >> 20) as f64 / time.as_secs_f64();
    let (ours, theirs) = (best(&ours), best(&theirs));
    figures.note("a layer of 1 GiB by serve, from notification to outcome", format!("{ours:.2?} ({:.0} MiB/s)", rate(ours)));
    let peak_mib = peak as f64 / 1024.0;
    figures.compare("    peak memory of serve", format!("{peak_mib:.1} MiB"), "< 100 MiB", peak_mib < 100.0);
    figures.note("    the same with skopeo copy", format!("{theirs:.2?} ({:.0} MiB/s)", rate(theirs)));
    figures.note("    skopeo's time / ours", format!("{:.2}", theirs.as_secs_f64() / ours.as_secs_f64()));
}

/// The time from the notification to the outcome, and the process's peak memory in KiB.
async fn by_transship(build: &DockerRegistry, layer: &Digest, manifest: &Digest) -> (Duration, u64) {
    let prod = DockerRegistry::start().await;
    let mut transship = Transship::reserve();
    let instances = [instance("build", build.url()), instance("prod", prod.url())];
    let rules = [rule("all", "instance: build, namespace: team", "instance: prod, namespace: team", "")];
    transship.start(&config(&instances, &rules)).await;
    let event = json!({ "events": [{
        "id": "large", "timestamp": "2026-02-03T04:05:06.789Z", "action": "push",
        "target": { "mediaType": media::OCI_MANIFEST, "digest": manifest, "repository": REPOSITORY, "tag": "v1", "size": 1 },
    }]});
    let began = Instant::now();
    assert_eq!(transship.notify("build", &event).await.status(), 202);
    let tasks = transship.ended("build/all", 1).await;
    let took = began.elapsed();
    assert_eq!(tasks[0]["counts"]["copied"], 1, "{}", tasks[0]);
    let status = fs::read_to_string(format!("/proc/{}/status", transship.pid())).expect("the process's status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak memory");
    let peak = line.trim().trim_end_matches(" kB").parse().expect("a number");
    verify(prod.client(), layer, manifest).await;
    (took, peak)
}

async fn by_skopeo(build: &DockerRegistry, layer: &Digest, manifest: &Digest) -> Duration {
    let prod = DockerRegistry::start().await;
    let mut command = Command::new("skopeo");
    command.args(["--insecure-policy", "copy", "--quiet", "--preserve-digests"]);
    command.args(["--src-tls-verify=false", "--src-no-creds", "--dest-tls-verify=false", "--dest-no-creds"]);
    command.args([build, &prod].map(|registry| format!("docker://{}", registry.at(REPOSITORY, "v1"))));
    let began = Instant::now();
    let output = command.kill_on_drop(true).output().await.expect("skopeo starts");
    let took = began.elapsed();
    assert!(output.status.success(), "skopeo: {}", String::from_utf8_lossy(&output.stderr));
    verify(prod.client(), layer, manifest).await;
    took
}

/// Reads all of it again.
async fn verify(client: &Client, layer: &Digest, manifest: &Digest) {
    assert_eq!(client.get_manifest(REPOSITORY, "v1").await.digest, *manifest);
    let response = client.request(Method::GET, &format!("/v2/{REPOSITORY}/blobs/{layer}")).send().await.expect("the layer");
    let (mut hash, mut size) = (Sha256::new(), 0);
    let mut body = response.bytes_stream();
    while let Some(piece) = body.next().await {
        let piece = piece.expect("the layer's content");
        size += piece.len();
        hash.update(&piece);
    }
    assert_eq!((size, format!("sha256:{}", hex(&hash.finalize()))), (SIZE, layer.to_string()));
}
