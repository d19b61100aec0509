//! What a function is called with, and what it answers.

use std::fmt;

use ::http::{Request, Response};
use aws_lambda_events::{
    apigw::{ApiGatewayV2httpRequest, ApiGatewayV2httpResponse},
    sqs::{SqsBatchResponse, SqsEvent},
};
use bytes::Bytes;
use lambda_runtime::Diagnostic;
use serde::Serialize;
use serde_json::Value;

use crate::{
    batch::{Message, message},
    http,
};

/// What a function is called with.
pub enum Event {
    /// An HTTP request, by a function URL or an HTTP API (both have payload format 2.0). Its body is as it was sent.
    Request(Box<Request<Bytes>>),
    /// Messages of one queue, at least one.
    Messages(Vec<Message>),
}

/// What a function answers.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// To a request.
    Response(Box<ApiGatewayV2httpResponse>),
    /// To messages: which of them are to come again.
    Batch(SqsBatchResponse),
}

/// An event that was not dealt with: the invocation fails, and the queue delivers its messages again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unhandled(String);

impl Unhandled {
    /// Because of something that may pass.
    pub fn because(error: impl fmt::Display) -> Self {
        Self(error.to_string())
    }
}

impl From<Unhandled> for Diagnostic {
    fn from(Unhandled(error_message): Unhandled) -> Self {
        Self { error_type: "Unhandled".into(), error_message }
    }
}

impl Event {
    /// The event, or, for a request that no HTTP library lets through, its answer.
    pub(crate) fn read(payload: Value) -> Result<Result<Self, Response<Bytes>>, Unhandled> {
        let is_batch = payload.get("Records").is_some();
        // What serde says may quote the event, and the event may hold a secret.
        let unreadable = |what: &str| Unhandled(format!("the event looks like {what}, and can't be read as such"));
        if is_batch {
            let event: SqsEvent = serde_json::from_value(payload).map_err(|_| unreadable("messages of SQS"))?;
            let messages: Option<Vec<Message>> = event.records.into_iter().map(message).collect();
            return Ok(Ok(Self::Messages(messages.ok_or_else(|| unreadable("messages of SQS"))?)));
        }
        if payload.get("requestContext").is_none() {
            return Err(Unhandled("the event is neither an HTTP request (payload format 2.0) nor messages of SQS".into()));
        }
        let event: ApiGatewayV2httpRequest = serde_json::from_value(payload).map_err(|_| unreadable("an HTTP request"))?;
        Ok(http::request(event).map(|request| Self::Request(Box::new(request))).map_err(|problem| http::refusal(&problem)))
    }

    /// The messages, for a function that understands nothing else.
    ///
    /// # Errors
    /// [`Unhandled`] for an HTTP request.
    pub fn messages(self, function: &str) -> Result<Vec<Message>, Unhandled> {
        match self {
            Self::Messages(messages) => Ok(messages),
            Self::Request(_) => Err(Unhandled(format!("{function} takes messages of its queues, and no HTTP requests"))),
        }
    }

    /// The request, for a function that understands nothing else.
    ///
    /// # Errors
    /// [`Unhandled`] for messages.
    pub fn request(self, function: &str) -> Result<Request<Bytes>, Unhandled> {
        match self {
            Self::Request(request) => Ok(*request),
            Self::Messages(_) => Err(Unhandled(format!("{function} takes HTTP requests, and no messages"))),
        }
    }
}

impl Answer {
    /// An HTTP response.
    pub fn response(response: Response<Bytes>) -> Self {
        Self::Response(Box::new(http::response(response)))
    }

    /// All messages are done with but these, which are to come again.
    pub fn done_but<'a>(again: impl IntoIterator<Item = &'a Message>) -> Self {
        let mut batch = SqsBatchResponse::default();
        again.into_iter().for_each(|message| batch.add_failure(message.id()));
        Self::Batch(batch)
    }
}
