//! Waiting for what happens elsewhere, and ports to do it on.

use std::{
    collections::HashSet,
    net::TcpListener,
    sync::Mutex,
    time::{Duration, Instant},
};

/// Waits until `condition` holds; looks every 25 ms.
///
/// # Panics
/// With `what`, if it does not hold within `timeout`.
pub async fn wait_until(what: &str, timeout: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < timeout, "waited {timeout:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// A loopback port that nobody listens on; no two calls in one process give the same.
///
/// It lies below the range that the kernel takes ports for outgoing connections from, so that nothing slips in between this
/// call and the server's `bind`: a URL can be handed out before its server exists.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut given = GIVEN.lock().unwrap();
    let given = given.get_or_insert_default();
    loop {
        let port = fastrand::u16(10_000..30_000);
        if !given.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            given.insert(port);
            return port;
        }
    }
}
