//! HTTP requests and responses as function URLs and HTTP APIs hand them over: payload format 2.0.
//!
//! <https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html#urls-payloads>
//!
//! `lambda_http` does the same, but panics at a query that `http` does not let through; and an anonymous caller must not be able to end
//! the process.

use aws_lambda_events::{
    apigw::{ApiGatewayV2httpRequest, ApiGatewayV2httpResponse},
    encodings::Body,
};
use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use transship_model::Problem;

/// What may not stand in a path or query (RFC 3986, section 3.3): an HTTP API hands paths over decoded.
const NOT_IN_URI: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'\\').add(b'^').add(b'`').add(b'{').add(b'|').add(b'}').add(b'#');
/// In a path besides.
const NOT_IN_PATH: &AsciiSet = &NOT_IN_URI.add(b'?');

/// What Lambda itself says of who sent a request; it is among the request's extensions. Nothing in it is a header.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sender {
    /// The address that it came from.
    pub address: Option<String>,
    /// The ARN of the identity that IAM has checked, where the URL has it checked.
    ///
    /// Whoever may invoke the function past its URLs writes its events, and can write anything here.
    pub identity: Option<String>,
}

/// A request, with its body as it was sent.
pub(crate) fn request(event: ApiGatewayV2httpRequest) -> Result<Request<Bytes>, Problem> {
    let bad = |what: &str| Problem::new(400, format!("{what} of the request can't be understood"));
    let path = event.raw_path.unwrap_or_default();
    let identity = event.request_context.authorizer.and_then(|authorizer| authorizer.iam?.user_arn);
    let sender = Sender { address: event.request_context.http.source_ip, identity: identity.filter(|arn| !arn.is_empty()) };
    // An HTTP API whose stage has a name puts it before the path.
    let stage = event.request_context.stage.filter(|stage| stage != "$default").map(|stage| format!("/{stage}"));
    let path = stage.and_then(|stage| path.strip_prefix(&stage)).filter(|rest| rest.starts_with('/')).unwrap_or(&path);
    let mut uri = utf8_percent_encode(path, NOT_IN_PATH).to_string();
    if let Some(query) = event.raw_query_string.filter(|query| !query.is_empty()) {
        uri.push('?');
        uri.extend(utf8_percent_encode(&query, NOT_IN_URI));
    }
    let uri: Uri = uri.parse().map_err(|_| bad("the path or query"))?;
    let body = match event.body {
        Some(body) if event.is_base64_encoded => {
            base64::engine::general_purpose::STANDARD.decode(body).map_err(|_| bad("the body"))?.into()
        }
        Some(body) => body.into(),
        None => Bytes::new(),
    };
    let mut request = Request::new(body);
    *request.method_mut() = event.request_context.http.method;
    *request.uri_mut() = uri;
    *request.headers_mut() = event.headers;
    request.extensions_mut().insert(sender);
    Ok(request)
}

/// A response. What is no text goes as base64.
pub(crate) fn response(response: Response<Bytes>) -> ApiGatewayV2httpResponse {
    let (head, body) = response.into_parts();
    let mut answer = ApiGatewayV2httpResponse::default();
    answer.status_code = head.status.as_u16().into();
    answer.headers = head.headers;
    answer.body = Some(match String::from_utf8(body.into()) {
        Ok(text) => Body::Text(text),
        Err(binary) => {
            answer.is_base64_encoded = true;
            Body::Binary(binary.into_bytes())
        }
    });
    answer
}

/// A problem as a response.
pub(crate) fn refusal(problem: &Problem) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(problem.to_json()));
    *response.status_mut() = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(Problem::MEDIA_TYPE));
    response
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(path: &str, query: &str, more: Value) -> Result<Request<Bytes>, Problem> {
        let mut event = json!({
            "version": "2.0", "rawPath": path, "rawQueryString": query, "headers": { "authorization": "Bearer t" },
            "requestContext": { "stage": "$default", "http": { "method": "POST", "path": path } },
        });
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        request(serde_json::from_value(event).unwrap())
    }

    #[test]
    fn a_body_arrives_as_the_bytes_that_were_sent() {
        let sent = read("/hooks/a", "", json!({ "isBase64Encoded": true, "body": "AP8K" })).unwrap();
        assert_eq!((sent.method().as_str(), sent.uri().path(), &sent.body()[..]), ("POST", "/hooks/a", &b"\x00\xff\n"[..]));
        assert_eq!(sent.headers()["authorization"], "Bearer t");
        assert_eq!(&read("/", "", json!({ "body": "{}" })).unwrap().body()[..], b"{}");
        assert!(read("/", "", json!({ "isBase64Encoded": true, "body": "?" })).is_err());
    }

    /// As the documentation shows it for a URL with `AWS_IAM`.
    ///
    /// Would break: an identity that is not found where Lambda puts it, or is found in what a caller can write.
    #[test]
    fn an_identity_is_what_iam_has_checked_and_nothing_else() {
        let arn = "arn:aws:iam::111122223333:user/example-user";
        let iam = json!({
            "accessKey": "AKIA...", "accountId": "111122223333", "callerId": "AIDA...", "cognitoIdentity": null, "principalOrgId": null,
            "userArn": arn, "userId": "AIDA...",
        });
        let http = json!({ "method": "GET", "sourceIp": "192.0.2.7" });
        let context = |more: Value| {
            let mut context = json!({ "http": http, "stage": "$default" });
            context.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            read("/", "", json!({ "requestContext": context })).unwrap().extensions().get::<Sender>().cloned().unwrap()
        };
        let checked = context(json!({ "authorizer": { "iam": iam } }));
        assert_eq!(checked, Sender { address: Some("192.0.2.7".into()), identity: Some(arn.into()) });
        assert_eq!(context(json!({ "accountId": "anonymous" })).identity, None);
        assert_eq!(context(json!({ "authorizer": {} })).identity, None);
        let forged =
            json!({ "headers": { "x-user-arn": arn, "requestcontext": arn }, "authorizer": { "iam": iam }, "body": "{}" });
        assert_eq!(read("/", "", forged).unwrap().extensions().get::<Sender>().unwrap().identity, None);
    }

    #[test]
    fn no_path_or_query_ends_the_process() {
        for (path, query) in [("/a b", "<\"`{|}>"), ("/ü%zz", "q=ü"), ("", ""), ("//", "?#"), ("x", "\u{0}")] {
            let _ = read(path, query, json!({}));
        }
        let request = read("/v1/a b", "x=<y>", json!({})).unwrap();
        assert_eq!(request.uri().to_string(), "/v1/a%20b?x=%3Cy%3E");
    }

    #[test]
    fn the_name_of_a_stage_is_no_part_of_the_path() {
        let staged = json!({ "requestContext": { "stage": "prod", "http": { "method": "GET" } } });
        assert_eq!(read("/prod/v1/tasks", "", staged.clone()).unwrap().uri(), "/v1/tasks");
        assert_eq!(read("/production", "", staged).unwrap().uri(), "/production");
    }

    #[test]
    fn a_response_keeps_status_headers_and_bytes() {
        let answer = serde_json::to_value(response(refusal(&Problem::new(401, "no")))).unwrap();
        assert_eq!(
            (&answer["statusCode"], &answer["headers"]["content-type"]),
            (&json!(401), &json!("application/problem+json"))
        );
        assert!(answer["body"].as_str().unwrap().contains("\"no\""), "{answer}");
        let answer = serde_json::to_value(response(Response::new(Bytes::from_static(b"\xff")))).unwrap();
        assert_eq!((&answer["isBase64Encoded"], &answer["body"]), (&json!(true), &json!("/w==")));
    }
}
