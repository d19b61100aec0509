//! An image with one layer of 1 GiB.

use bytes::Bytes;
use futures_util::stream;
use reqwest::{Body, Method};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use transship_model::Digest;
use transship_tests::{Client, media};

pub(crate) const SIZE: usize = 1 << 30;
const PIECE: usize = 1 << 20;

/// Pushes it as `v1`; the digests of layer and manifest.
pub(crate) async fn push(client: &Client, repository: &str) -> (Digest, Digest) {
    // Made as it is sent, twice, so that the bench has no gigabyte in memory either.
    let mut hash = Sha256::new();
    pieces().for_each(|piece| hash.update(&piece));
    let layer: Digest = format!("sha256:{}", hex(&hash.finalize())).parse().expect("a digest");
    let location = begin(client, repository).await;
    let body = Body::wrap_stream(stream::iter(pieces().map(Ok::<_, std::io::Error>)));
    let put = client.request(Method::PUT, &format!("{location}&digest={layer}")).header("Content-Length", SIZE).body(body);
    assert_eq!(put.send().await.expect("the layer").status(), 201);

    let diff_ids = [&layer];
    let config = json!({ "os": "linux", "architecture": "amd64", "rootfs": { "type": "layers", "diff_ids": diff_ids } });
    let config = config.to_string();
    let size = config.len();
    let config = client.push_blob(repository, config).await;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media::OCI_MANIFEST,
        "config": { "mediaType": media::OCI_CONFIG, "digest": config, "size": size },
        "layers": [{ "mediaType": media::OCI_LAYER, "digest": layer, "size": SIZE }],
    });
    let manifest = client.put_manifest(repository, "v1", media::OCI_MANIFEST, manifest.to_string()).await;
    (layer, manifest)
}

/// Begins an upload; where its content goes.
pub(crate) async fn begin(client: &Client, repository: &str) -> String {
    let begun = client.request(Method::POST, &format!("/v2/{repository}/blobs/uploads/")).send().await.expect("an upload");
    begun.headers()["location"].to_str().expect("a location").to_owned()
}

/// The layer's content. It begins as gzip does, so that skopeo has no reason to compress it.
fn pieces() -> impl Iterator<Item = Bytes> + Send + 'static {
    let mut random = fastrand::Rng::with_seed(1);
    (0..SIZE / PIECE).map(move |i| {
        let mut piece = vec![0; PIECE];
        random.fill(&mut piece);
        if i == 0 {
            piece[..4].copy_from_slice(&[0x1f, 0x8b, 8, 0]);
        }
        piece.into()
    })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
