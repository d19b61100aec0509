use super::*;

/// Would break: a change of something else than its author has seen, in any kind of thing and by any verb; an ETag that no reader can use.
#[tokio::test]
async fn every_verb_of_every_kind_keeps_to_the_conditions() {
    let deployment = Deployment::filled().await;
    let webhook = json!({ "webhook": { "url": "https://receiver.example/hook" } });
    deployment.done(Method::PUT, "/v1/subscriptions/ci", webhook.clone()).await;
    let lab = json!({ "endpoint": "https://lab.example" });
    deployment.done(Method::PUT, "/v1/instances/lab", lab.clone()).await;
    let call = async |method: &Method, path: &str, body: &Value, header: (&str, &str)| {
        let (status, headers, answer) = deployment.call(&admin(), method.clone(), path, body, &[header]).await;
        let etag = headers.get("etag").map(|etag| etag.to_str().unwrap().to_owned());
        (status, etag, answer)
    };
    for (path, whole, part) in [
        ("/v1/instances/lab", lab, json!({ "region": "eu-central-1" })),
        ("/v1/instances/build/rules/near", to("third"), json!({ "description": "other words" })),
        ("/v1/subscriptions/ci", webhook, json!({ "description": "other words" })),
    ] {
        let read = async || call(&Method::GET, path, &Value::Null, ("accept", "*/*")).await.1.unwrap();
        let first = read().await;
        // How a subscription gets on with its receiver is no part of its revision: it is always shown.
        let again = if path.contains("subscriptions") { 200 } else { 304 };
        let (status, etag, body) = call(&Method::GET, path, &Value::Null, ("if-none-match", &first)).await;
        assert_eq!((status, etag.as_ref(), body.is_null()), (again, Some(&first), again == 304), "{path}");
        let (status, etag, _) = call(&Method::PATCH, path, &part, ("if-match", &first)).await;
        let second = read().await;
        assert_eq!((status, etag.as_ref()), (200, Some(&second)), "{path}");
        assert_ne!(first, second, "{path}");
        assert_eq!(call(&Method::GET, path, &Value::Null, ("if-none-match", &first)).await.0, 200, "{path}");
        for (method, body) in [(Method::PUT, &whole), (Method::PATCH, &json!({})), (Method::DELETE, &Value::Null)] {
            let (status, _, answer) = call(&method, path, body, ("if-match", &first)).await;
            assert_eq!((status, &answer["code"]), (412, &json!("changed")), "{method} {path}: {answer}");
        }
        assert_eq!(call(&Method::PUT, path, &whole, ("if-none-match", "*")).await.0, 412, "{path}");
        assert_eq!(read().await, second, "{path} was changed all the same");
        assert_eq!(call(&Method::PUT, path, &whole, ("if-match", &second)).await.0, 200, "{path}");
        let third = read().await;
        assert_eq!(call(&Method::DELETE, path, &Value::Null, ("if-match", &third)).await.0, 204, "{path}");
        assert_eq!(call(&Method::PUT, path, &whole, ("if-match", "*")).await.0, 412, "{path}: there is none");
    }
}

/// Would break: a page of instances, rules or subscriptions that repeats or leaves out one.
#[tokio::test]
async fn what_is_in_the_catalogue_is_listed_page_by_page() {
    let deployment = Deployment::filled().await;
    let webhook = json!({ "webhook": { "url": "https://receiver.example/hook" } });
    for n in 0..4 {
        deployment.done(Method::PUT, &format!("/v1/instances/i{n}"), json!({ "endpoint": "https://a.example" })).await;
        deployment.done(Method::PUT, &format!("/v1/subscriptions/s{n}"), webhook.clone()).await;
    }
    for (path, wanted) in [
        ("/v1/instances", &["build", "i0", "i1", "i2", "i3", "prod", "third"][..]),
        ("/v1/instances/build/rules", &["all", "near"]),
        ("/v1/subscriptions", &["s0", "s1", "s2", "s3"]),
    ] {
        for limit in [1, 2, 3, 4, 1000] {
            let all = deployment.all(path, limit).await;
            let names: Vec<&str> = all.iter().map(|one| one["name"].as_str().unwrap()).collect();
            assert_eq!(names, wanted, "{path}?limit={limit}");
        }
    }
}
