//! A registry in this process: the demo needs no other program, no disk and no port of its own choosing.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use ferro_blob_store::InMemoryBlobStore;
use ferro_oci_server::{AppState, InMemoryRegistryMeta};
use tokio::{net::TcpListener, sync::oneshot};

/// A registry that keeps everything in memory and listens on a free port of loopback. It ends, and forgets, on drop.
///
/// It has the referrers API. It lets everyone in and sends no notifications: the demo sends, after a push, the event that a
/// registry would have sent. It differs from others in what a demo does not show: a blob of one repository is there in all of
/// them, a read with `Range` gives the whole blob, an upload is held in memory, and a referrer pushed twice is listed twice.
pub(crate) struct DemoRegistry {
    address: SocketAddr,
    /// Dropping it is the sign to stop.
    _stop: oneshot::Sender<()>,
}

impl DemoRegistry {
    /// Starts an empty one.
    ///
    /// # Errors
    /// Loopback may have no free port.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("the demo's registry needs a port on loopback")?;
        let address = listener.local_addr()?;
        let state = AppState::new(Arc::new(InMemoryBlobStore::new()), Arc::new(InMemoryRegistryMeta::new()));
        let (_stop, stopped) = oneshot::channel::<()>();
        // The router sets its own limits: 512 MiB for a request, 4 GiB for an upload.
        let server = axum::serve(listener, ferro_oci_server::router(state)).with_graceful_shutdown(async {
            // Nothing is ever sent: this ends when the sender is dropped.
            let _ = stopped.await;
        });
        tokio::spawn(server.into_future());
        Ok(Self { address, _stop })
    }

    /// `http://127.0.0.1:<port>`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_serves_until_it_is_dropped() {
        let registry = DemoRegistry::start().await.unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("{}/v2/", registry.url());
        assert_eq!(http.get(&url).send().await.unwrap().status(), 200);
        drop(registry);
        let mut refused = false;
        for _ in 0..200 {
            refused = refused || http.get(&url).send().await.is_err();
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert!(refused, "the port is closed");
    }

    #[tokio::test]
    async fn a_large_upload_of_unknown_length_is_taken() {
        let registry = DemoRegistry::start().await.unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let begun = http.post(format!("{}/v2/a/b/blobs/uploads/", registry.url())).send().await.unwrap();
        let location = format!("{}{}", registry.url(), begun.headers()["location"].to_str().unwrap());
        let chunks = futures_util::stream::iter((0..40).map(|_| Ok::<_, std::io::Error>(vec![7; 1 << 20])));
        let patch = http.patch(&location).body(reqwest::Body::wrap_stream(chunks)).send().await.unwrap();
        assert_eq!(patch.headers()["range"], format!("0-{}", (40 << 20) - 1));
        let digest = transship_model::Digest::of(&vec![7; 40 << 20]);
        let put = http.put(format!("{location}?digest={digest}")).send().await.unwrap();
        assert_eq!(put.status(), 201);
        let head = http.head(format!("{}/v2/a/b/blobs/{digest}", registry.url())).send().await.unwrap();
        assert_eq!(head.headers()["content-length"], (40 << 20).to_string());
    }
}
