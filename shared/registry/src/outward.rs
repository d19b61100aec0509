//! Requests to hosts that are no registries: what people have named to be told something.
//!
//! They are not trusted with more than the request: no redirect is followed, addresses near us are refused unless they were allowed,
//! and of an answer little is read.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use ::http::HeaderMap;
use bytes::Bytes;
use reqwest::{Client, StatusCode};
use tokio::time::timeout;
use url::Url;

use crate::{
    address::{Forbidden, Reach, written_out},
    error::{network, sanitised},
    http::{self, Protocol},
    registry::wait_of,
};

/// So much of an answer is read, for the words in it.
const MAX_ANSWER: usize = 500;

/// What a host answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// How long it asks to wait, if it does.
    pub retry_after: Option<Duration>,
    /// The beginning of the body, made fit for one line of a log.
    pub text: String,
}

/// Why there is no answer. The message names neither path nor query of the URL, which may be secret.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Unanswered {
    /// The address is near us, which was not allowed.
    #[error("{0} is a private, loopback or link-local address, which was not allowed")]
    Forbidden(String),
    /// The network, or TLS.
    #[error("{0}")]
    Failed(String),
    /// It took too long.
    #[error("no answer within {} seconds", .0.as_secs())]
    Late(Duration),
}

/// Clients for such hosts, each built when it is first needed. Cloning them is cheap.
#[derive(Debug, Default)]
pub struct Outward {
    /// For public addresses, and for those near us as well.
    clients: [Mutex<Option<Client>>; 2],
}

impl Outward {
    /// Sends a POST, and waits so long in all for the answer. `may_be_near` allows private and loopback addresses; those of metadata
    /// services and the like are never reached.
    ///
    /// # Errors
    /// See [`Unanswered`]. The host may have got the request nevertheless.
    pub async fn post(
        &self,
        url: &Url,
        may_be_near: bool,
        headers: HeaderMap,
        body: Bytes,
        patience: Duration,
    ) -> Result<Answer, Unanswered> {
        let reach = if may_be_near { Reach::NEAR } else { Reach::PUBLIC };
        if let Some(address) = written_out(url)
            && !reach.allows(address)
        {
            return Err(Unanswered::Forbidden(address.to_string()));
        }
        let client = self.client(may_be_near, reach)?;
        let exchange = async {
            let mut response = client.post(url.clone()).headers(headers).body(body).send().await.map_err(failure)?;
            let (status, retry_after) = (response.status(), wait_of(&response));
            let mut text = Vec::new();
            // What breaks off here has been answered all the same.
            while let Ok(Some(chunk)) = response.chunk().await {
                text.extend_from_slice(&chunk[..chunk.len().min(MAX_ANSWER - text.len())]);
                if text.len() == MAX_ANSWER {
                    break;
                }
            }
            Ok(Answer { status, retry_after, text: sanitised(&String::from_utf8_lossy(&text)) })
        };
        timeout(patience, exchange).await.unwrap_or(Err(Unanswered::Late(patience)))
    }

    fn client(&self, may_be_near: bool, reach: Reach) -> Result<Client, Unanswered> {
        let mut client = self.clients[usize::from(may_be_near)].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        let built = http::guarded(Protocol::Http1, reach).build().map_err(|error| Unanswered::Failed(network(error)))?;
        Ok(client.insert(built).clone())
    }
}

fn failure(error: reqwest::Error) -> Unanswered {
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        if let Some(forbidden) = error.downcast_ref::<Forbidden>() {
            return Unanswered::Forbidden(forbidden.host().to_owned());
        }
        cause = error.source();
    }
    Unanswered::Failed(network(error))
}
