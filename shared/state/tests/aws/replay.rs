//! A service's answers that no emulator gives, replayed one after the other.

use std::sync::{Arc, Mutex};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::config::Credentials;
use axum::{Router, body::Bytes, http::StatusCode};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};

/// A server on loopback that gives these answers and keeps what it was asked. The last answer is repeated.
pub(crate) struct Replay {
    url: String,
    asked: Arc<Mutex<Vec<Value>>>,
    server: JoinHandle<()>,
}

impl Replay {
    pub(crate) async fn start(answers: Vec<(u16, Value)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<Value>>>::default();
        let to = asked.clone();
        let app = Router::new().fallback(move |body: Bytes| async move {
            let mut asked = to.lock().unwrap();
            let (status, answer) = &answers[asked.len().min(answers.len() - 1)];
            asked.push(serde_json::from_slice(&body).unwrap());
            (StatusCode::from_u16(*status).unwrap(), [("content-type", "application/x-amz-json-1.0")], answer.to_string())
        });
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, asked, server }
    }

    pub(crate) async fn sdk(&self) -> SdkConfig {
        let identity = Credentials::new("test", "test", None, None, "a test");
        let config = aws_config::defaults(BehaviorVersion::latest()).region(Region::from_static("eu-central-1"));
        config.endpoint_url(&self.url).credentials_provider(identity).load().await
    }

    /// The requests so far.
    pub(crate) fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.server.abort();
    }
}
