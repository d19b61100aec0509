//! Tencent Container Registry, whose namespaces are made by Tencent Cloud's API, `CreateNamespace` of 2019-09-24:
//! <https://cloud.tencent.com/document/api/1141/41587>. It takes keys of its own, which sign requests and are not sent.

use std::sync::PoisonError;

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method,
    header::{AUTHORIZATION, CONTENT_TYPE},
};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use transship_model::Repository;

use super::super::{Registry, send::Call};
use crate::{
    auth::Scope,
    error::{Error, Failure, sanitised},
    tc3::{self, Request, Tcr},
};

const VERSION: &str = "2019-09-24";
/// How large an answer may be.
const MAX_ANSWER: usize = 1 << 20;

/// What the API answers, with the status 200 in any case.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Envelope {
    response: Answer,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    error: Option<Problem>,
    namespace_list: Option<Vec<Namespace>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Problem {
    code: String,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Namespace {
    name: String,
}

impl Registry {
    /// Makes sure that the namespace of a repository is there: private, if it is made.
    pub(super) async fn ensure_tcr_namespace(&self, api: &Self, tcr: &Tcr, repository: &Repository) -> Result<(), Error> {
        let Some((namespace, _)) = repository.as_str().split_once('/') else {
            let problem = "in Tencent's registry a repository lies in a namespace, so that its name has at least two segments";
            let failure = self.failure(format!("preparing {repository}"), problem);
            return Err(failure.hint("give the rule a target namespace").refused());
        };
        if self.0.namespaces.lock().unwrap_or_else(PoisonError::into_inner).contains(namespace) {
            return Ok(());
        }
        if !api.has_tcr_namespace(tcr, namespace).await? {
            let body = json!({"RegistryId": tcr.registry_id, "NamespaceName": namespace, "IsPublic": false});
            match api.ask_tencent(tcr, "CreateNamespace", &body).await {
                Ok(_) => tracing::info!(registry = self.name(), namespace, "created a namespace"),
                // Somebody else may have made it in the meantime, for which the API has several words.
                Err(error) if error.is_retry() || !api.has_tcr_namespace(tcr, namespace).await? => return Err(error),
                Err(_) => {}
            }
        }
        self.0.namespaces.lock().unwrap_or_else(PoisonError::into_inner).insert(namespace.into());
        Ok(())
    }

    pub(super) async fn has_tcr_namespace(&self, tcr: &Tcr, namespace: &str) -> Result<bool, Error> {
        // The name is searched for, so that others come with it.
        let body = json!({"RegistryId": tcr.registry_id, "NamespaceName": namespace, "Limit": 100});
        let answer = self.ask_tencent(tcr, "DescribeNamespaces", &body).await?;
        Ok(answer.namespace_list.unwrap_or_default().iter().any(|found| found.name == namespace))
    }

    async fn ask_tencent(&self, tcr: &Tcr, action: &'static str, body: &Value) -> Result<Answer, Error> {
        let (now, body) = (Timestamp::now(), Bytes::from(body.to_string()));
        let (seconds, time) = (now.as_second(), now.to_string());
        let mut host = self.0.endpoint.host_str().unwrap_or_default().to_owned();
        if let Some(port) = self.0.endpoint.port() {
            host = format!("{host}:{port}");
        }
        let day = time.split('T').next().unwrap_or_default();
        let request = Request { service: "tcr", host: &host, action, body: &body, time: (seconds, day) };
        let header = |text: &str| {
            let unfit = |_| self.failure(action, "the key's name or the region can't be sent in a header").refused();
            HeaderValue::from_str(text).map_err(unfit)
        };
        let mut authorization = header(&request.authorization(&tcr.secret_id, &tcr.secret_key))?;
        authorization.set_sensitive(true);
        let call = Call::new(Method::POST, action, self.path("/"), Scope::Service)
            .header(CONTENT_TYPE, HeaderValue::from_static(tc3::CONTENT_TYPE))
            .header(AUTHORIZATION, authorization)
            .header(HeaderName::from_static("x-tc-action"), HeaderValue::from_static(action))
            .header(HeaderName::from_static("x-tc-version"), HeaderValue::from_static(VERSION))
            .header(HeaderName::from_static("x-tc-timestamp"), HeaderValue::from(seconds))
            .header(HeaderName::from_static("x-tc-region"), header(&tcr.region)?)
            .body(body.clone());
        let response = self.send(&call).await?;
        let bytes = self.read(action, response, MAX_ANSWER).await?;
        let Ok(Envelope { response }) = serde_json::from_slice(&bytes) else {
            return Err(self.failure(action, "the answer is not what the API promises").refused());
        };
        match response.error {
            None => Ok(response),
            Some(Problem { code, message }) => {
                let failure = self.failure(action, sanitised(&format!("{code}: {message}")));
                Err(refusal(failure, &code, action))
            }
        }
    }
}

/// What an error code means.
fn refusal(failure: Failure, code: &str, action: &str) -> Error {
    let of = |what: &str| code == what || code.strip_prefix(what).is_some_and(|rest| rest.starts_with('.'));
    if of("RequestLimitExceeded") || of("InternalError") {
        return failure.retry(None);
    }
    // AuthFailure.UnauthorizedOperation is the same, said by the access management itself.
    if of("UnauthorizedOperation") || of("AuthFailure.UnauthorizedOperation") {
        return failure.denied(format!("allow the key tcr:{action}, or create the namespace beforehand"));
    }
    if of("AuthFailure") {
        return failure.denied("check the tcr settings: secret_id, secret_key, and the clock of this machine".into());
    }
    failure.hint("check the tcr settings: registry_id and region").refused()
}
