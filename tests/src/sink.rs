//! An endpoint that takes what others send: a webhook's receiver, a notification's subscriber.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{Router, extract::Request, http::StatusCode};
use bytes::Bytes;
use reqwest::header::HeaderMap;
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};

use crate::wait_until;

/// One request that a [`Sink`] took.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// When it came.
    pub at: Instant,
    /// The path.
    pub path: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Delivery {
    /// A header as text, empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the delivery is JSON")
    }
}

type Answer = Box<dyn FnMut(&Delivery) -> u16 + Send>;

/// A server on loopback that records every request; it ends on drop.
pub struct Sink {
    url: String,
    deliveries: Arc<Mutex<Vec<Delivery>>>,
    answer: Arc<Mutex<Answer>>,
    server: JoinHandle<()>,
}

impl Sink {
    /// Starts one that answers everything with 200.
    pub async fn start() -> Self {
        Self::start_on(0).await
    }

    /// Starts one on a port that was handed out before.
    pub async fn start_on(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a loopback port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let deliveries = Arc::<Mutex<Vec<Delivery>>>::default();
        let answer: Arc<Mutex<Answer>> = Arc::new(Mutex::new(Box::new(|_| 200)));
        let (to, by) = (deliveries.clone(), answer.clone());
        let app = Router::new().fallback(move |request: Request| async move {
            let (head, body) = request.into_parts();
            let Ok(body) = axum::body::to_bytes(body, usize::MAX).await else { return StatusCode::BAD_REQUEST };
            let delivery = Delivery { at: Instant::now(), path: head.uri.to_string(), headers: head.headers, body };
            let status = by.lock().unwrap()(&delivery);
            to.lock().unwrap().push(delivery);
            StatusCode::from_u16(status).expect("a status")
        });
        let server = tokio::spawn(async move { axum::serve(listener, app).await.expect("a server does not end") });
        Self { url, deliveries, answer, server }
    }

    /// Decides the status of each answer from now on.
    pub fn answer(&self, answer: impl FnMut(&Delivery) -> u16 + Send + 'static) {
        *self.answer.lock().unwrap() = Box::new(answer);
    }

    /// `http://127.0.0.1:<port>`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What has come so far.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.deliveries.lock().unwrap().clone()
    }

    /// When the first request with this path came, if one has.
    pub fn first(&self, path: &str) -> Option<Instant> {
        let deliveries = self.deliveries.lock().unwrap();
        deliveries.iter().find(|delivery| delivery.path == path).map(|delivery| delivery.at)
    }

    /// Waits for a delivery that `is` accepts; the first one.
    pub async fn wait_for(&self, what: &str, timeout: Duration, is: impl Fn(&Delivery) -> bool) -> Delivery {
        let mut found = None;
        wait_until(what, timeout, async || {
            found = self.deliveries().into_iter().find(|delivery| is(delivery));
            found.is_some()
        })
        .await;
        found.expect("it was just found")
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.server.abort();
    }
}
