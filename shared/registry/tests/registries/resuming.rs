//! Uploads that break and go on.

use transship_model::{Digest, Kind};
use transship_registry::{Copier, Endpoint, Options};

use crate::{fixture::*, peculiar::*};

const OPTIONS: Options = Options { overwrite: true, referrers: false };
const MIB: usize = 1 << 20;
const UPLOADS: &str = "/blobs/uploads/";

/// A registry with an image of one layer.
async fn source_of(layer: &[u8]) -> (Distribution, Endpoint) {
    let a = Distribution::start();
    let source = endpoint("source", &a.url, "app");
    push(&source, Some("v1"), (OCI_CONFIG, b"{}"), &[(OCI_LAYER, layer)], serde_json::json!({})).await;
    (a, source)
}

fn target_of(proxy: &Peculiar, kind: Kind) -> Endpoint {
    Endpoint::new(&registry_with(&proxy.url, |config| config.kind = kind), repo("app"))
}

async fn assert_arrived(behind: &Distribution, layer: &[u8]) {
    let there = registry("behind", &behind.url).get_blob(&repo("app"), &Digest::of(layer)).await.unwrap();
    assert!(there.read(layer.len()).await.unwrap() == layer);
}

/// Breaks the nth `PATCH` in a way.
fn breaking(nth: usize, deed: impl Fn() -> Deed + Send + Sync + 'static) -> impl Fn(&Seen) -> Deed + Send + Sync + 'static {
    let patches = std::sync::atomic::AtomicUsize::new(0);
    move |seen| match seen.is("PATCH", UPLOADS) && patches.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1 == nth {
        true => deed(),
        false => Deed::Pass,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_is_no_error() {
    let layer = much(1, 10 * MIB);
    let (_a, source) = source_of(&layer).await;
    let tag = reference("v1");
    for deed in [|| Deed::Break(1 << 20), || Deed::LoseAnswer, || refuse(500, "UNKNOWN"), || refuse(404, "BLOB_UPLOAD_INVALID")]
    {
        for kind in [Kind::Ghcr, Kind::Distribution] {
            let b = Distribution::start();
            let proxy = Peculiar::with(&b.url, breaking(1, deed)).await;
            let (target, progress) = (target_of(&proxy, kind), Counter::default());
            Copier::default().copy(&source, &tag, &target, &tag, OPTIONS, &progress).await.unwrap();
            assert_arrived(&b, &layer).await;
            assert!(proxy.received() >= layer.len() as u64);
            let (planned, moved, _, lost) = progress.read();
            assert_eq!(planned, moved - lost);
        }
    }
}
