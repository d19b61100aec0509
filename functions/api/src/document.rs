//! What the API says about itself: OpenAPI 3.1, made from the handlers and completed here with what holds for all of them.

use std::collections::HashMap;

use axum::http::Method;
use serde_json::{Map, Value, json};
use transship_model::{Problem, Role};

/// Where it is served. Nothing in it is a deployment's own, and programs want it before they have a token.
pub(crate) const PATH: &str = "/v1/openapi.json";

/// What the document says about itself; the handlers say the rest.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "transship",
        description = "Keeps container registries in step: the management API.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    components(schemas(Problem, crate::wanted::Purpose))
)]
pub(crate) struct Document;

/// The kinds of things that there are, as operations are grouped by.
const TAGS: [(&str, &str); 7] = [
    ("instances", "The registries that transship knows."),
    ("rules", "What is carried from which instance to which."),
    ("tasks", "What was done, is being done, and is to be done."),
    ("subscriptions", "Who is told of what has ended."),
    ("tokens", "Who may call the API."),
    ("audit", "Who changed what."),
    ("api", "The API itself."),
];

/// What holds for an operation before its handler is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Operation {
    /// What its callers have to be at least; `None` for everybody.
    pub(crate) role: Option<Role>,
    /// Whether it keeps its answer for an `Idempotency-Key`.
    pub(crate) is_keyed: bool,
}

/// All operations, by the template of their path and their method.
pub(crate) struct Operations(HashMap<(String, Method), Operation>);

impl Operations {
    /// Of a document.
    pub(crate) fn read(document: &Value) -> Self {
        let all = operations(document).map(|(path, method, operation)| ((path.to_owned(), method), read(operation)));
        Self(all.collect())
    }

    /// What holds for a request; a `HEAD` is its `GET`.
    pub(crate) fn find(&self, path: &str, method: &Method) -> Option<Operation> {
        let method = if method == Method::HEAD { Method::GET } else { method.clone() };
        self.0.get(&(path.to_owned(), method)).copied()
    }
}

fn operations(document: &Value) -> impl Iterator<Item = (&str, Method, &Value)> {
    let paths = document["paths"].as_object().into_iter().flatten();
    paths.flat_map(|(path, item)| {
        let methods = item.as_object().into_iter().flatten();
        methods.filter_map(move |(method, operation)| Some((&**path, method_of(method)?, operation)))
    })
}

/// A path may have other members than operations.
fn method_of(key: &str) -> Option<Method> {
    let known = [Method::GET, Method::PUT, Method::POST, Method::DELETE, Method::PATCH];
    known.into_iter().find(|method| method.as_str().eq_ignore_ascii_case(key))
}

/// Who forgets to say who may call an operation has made one for admins.
fn read(operation: &Value) -> Operation {
    let requirements = operation["security"].as_array();
    let is_open = requirements.is_some_and(|all| all.iter().any(|one| one.as_object().is_some_and(Map::is_empty)));
    let named = requirements.into_iter().flatten().filter_map(|one| one["token"][0].as_str()?.parse().ok()).next();
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    let is_keyed = parameters.into_iter().any(|parameter| parameter["name"] == "Idempotency-Key");
    Operation { role: (!is_open).then(|| named.unwrap_or(Role::Admin)), is_keyed }
}

/// Adds what holds for every operation, so that no handler has to repeat it.
pub(crate) fn complete(document: &mut Value) {
    document["servers"] = json!([{ "url": "/", "description": "Where this document came from" }]);
    let used: Vec<Value> =
        operations(document).flat_map(|(.., operation)| operation["tags"].as_array()).flatten().cloned().collect();
    let tags = TAGS.iter().filter(|(name, _)| used.iter().any(|tag| tag == name));
    document["tags"] = tags.map(|(name, description)| json!({ "name": name, "description": description })).collect();
    document["components"]["securitySchemes"] = json!({
        "token": {
            "type": "http", "scheme": "bearer",
            "description": "The deployment's own token, or one that was made here. What stands beside it is the role that it needs.",
        },
        "aws": {
            "type": "apiKey", "in": "header", "name": "Authorization", "x-amazon-apigateway-authtype": "awsSigv4",
            "description": "On AWS, at the URL for IAM: a signature of version 4 for the service `lambda`.",
        },
    });
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    for (_, operation) in paths.flat_map(|(_, item)| item.as_object_mut().into_iter().flatten()) {
        if operation.get("responses").is_some() {
            complete_operation(operation);
        }
    }
}

fn complete_operation(operation: &mut Value) {
    if let Some(requirements) = operation.get_mut("security").and_then(Value::as_array_mut) {
        let roles: Vec<Value> = requirements.iter().filter_map(|one| one.get("token").cloned()).collect();
        requirements.extend(roles.into_iter().map(|roles| json!({ "aws": roles })));
    }
    let Some(responses) = operation["responses"].as_object_mut() else { return };
    let problem = |description: &str| {
        let schema = json!({ "$ref": "#/components/schemas/Problem" });
        json!({ "description": description, "content": { Problem::MEDIA_TYPE: { "schema": schema } } })
    };
    responses.entry("4XX").or_insert_with(|| problem("What is wrong with the request"));
    responses.entry("5XX").or_insert_with(|| problem("It could not be done now: the same request may succeed later"));
    for response in responses.values_mut() {
        response["headers"]["x-request-id"] =
            json!({ "description": "The request's ID, as the log and the audit have it", "schema": { "type": "string" } });
    }
}
