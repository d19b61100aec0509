use transship_model::{Instance, Owner, RuleName, Subscription, SubscriptionName};
use transship_state::{AuditEntry, AuditLog, MintedToken, NewToken};

use super::*;

/// Would break: an explanation that takes minutes, or an answer of megabytes, where an instance has many rules; rules that are left out and
/// not told of.
#[tokio::test]
async fn an_explanation_of_many_rules_looks_at_some_and_tells_of_the_others() {
    let deployment = Deployment::filled().await;
    let template = deployment.rule("all").await;
    let rule = |name: String, namespace: &str, target: &str| {
        let mut rule = Rule { name: name.parse::<RuleName>().unwrap(), ..template.clone() };
        rule.source.namespace = namespace.parse().unwrap();
        rule.target.instance = target.parse().unwrap();
        rule
    };
    let mut rules: Vec<Rule> = (0..190).map(|n| rule(format!("far-{n:03}"), "elsewhere", "prod")).collect();
    rules.extend((0..30).map(|n| rule(format!("near-{n:03}"), "team", "prod")));
    rules.extend((0..2).map(|n| rule(format!("hidden-{n}"), "team", "third")));
    fill(&deployment, &[], &rules, &[]).await;

    let what = json!({ "instance": "build", "repository": "team/app", "tag": "v1" });
    let caller = somebody(Role::Viewer, &["build", "prod"]);
    let (status, _, told) = deployment.call(&caller, Method::POST, "/v1/explain", &what, &[]).await;
    assert_eq!(status, 200, "{told}");
    let says = told["rules"].as_array().unwrap();
    assert_eq!((says.len(), &told["more"]), (200, &json!(21)), "{told}");
    let names: Vec<&str> = says.iter().map(|rule| rule["rule"].as_str().unwrap()).collect();
    assert!(
        names[1..31].iter().all(|name| name.starts_with("near-")) && names[31..].iter().all(|name| name.starts_with("far-"))
    );
    let unread: Vec<&str> =
        says.iter().filter(|rule| rule["tasks_not_read"] == true).map(|rule| rule["rule"].as_str().unwrap()).collect();
    assert_eq!(unread, names[20..31]);
    let summary = told["summary"].as_str().unwrap();
    assert!(summary.starts_with("31 of the rules of build select it"), "{summary}");
    assert!(summary.contains("3 more lead to instances that are not yours"), "{summary}");
}

/// Puts entries into the catalogue besides what is there, as an `apply` does.
async fn fill(deployment: &Deployment, instances: &[Instance], rules: &[Rule], subscriptions: &[Subscription]) {
    let now = deployment.catalog.snapshot().await.unwrap();
    let mut all: Vec<Instance> = now.instances().map(|instance| (**instance).clone()).collect();
    all.extend_from_slice(instances);
    let plan = deployment.catalog.plan_all(&Owner::Api, &all, rules, subscriptions, false).await.unwrap();
    let (plan, _) = plan.without_deletions();
    assert!(plan.refusals().is_empty(), "{:?}", plan.refusals());
    deployment.catalog.carry_out(plan).await.unwrap();
}

/// Would break: a catalogue that grows beyond what can be read and compared in the time of a request; instances' own notifications counted
/// as subscriptions.
#[tokio::test]
async fn a_catalogue_that_is_full_takes_changes_and_nothing_new() {
    let deployment = Deployment::filled().await;
    let notify = json!({ "notify": { "url": "https://receiver.example/hook" } });
    deployment.done(Method::PATCH, "/v1/instances/build", notify).await;
    let webhook = json!({ "webhook": { "url": "https://receiver.example/hook" } });
    deployment.done(Method::PUT, "/v1/subscriptions/first", webhook.clone()).await;
    let now = deployment.catalog.snapshot().await.unwrap();
    let template = now.instance(&"third".parse().unwrap()).unwrap();
    let instances =
        (3..Catalog::MAX_INSTANCES).map(|n| Instance { name: format!("i{n}").parse().unwrap(), ..(**template).clone() });
    let subscription = now.subscription(&"first".parse().unwrap()).unwrap();
    let subscriptions = (1..Catalog::MAX_SUBSCRIPTIONS - 1)
        .map(|n| Subscription { name: format!("s{n}").parse::<SubscriptionName>().unwrap(), ..(*subscription).clone() });
    let rule = deployment.rule("all").await;
    let rules = (2..Catalog::MAX_RULES).map(|n| Rule { name: format!("r{n}").parse().unwrap(), ..rule.clone() });
    fill(&deployment, &instances.collect::<Vec<_>>(), &rules.collect::<Vec<_>>(), &subscriptions.collect::<Vec<_>>()).await;

    deployment.done(Method::PUT, "/v1/subscriptions/last", webhook.clone()).await;
    for (path, body) in [
        ("/v1/instances/one-more", json!({ "endpoint": "https://more.example" })),
        ("/v1/instances/build/rules/one-more?start=false", to("prod")),
        ("/v1/subscriptions/one-more", webhook),
    ] {
        let (status, _, answer) = deployment.call(&admin(), Method::PUT, path, &body, &[]).await;
        assert_eq!(status, 409, "{path}: {answer}");
    }
    deployment.done(Method::PATCH, "/v1/instances/build/rules/all", json!({ "description": "other words" })).await;
}

/// Would break: tokens without end; one that is of no use any more in the place of one that would be.
#[tokio::test]
async fn there_are_a_thousand_tokens_that_let_in_and_no_more() {
    let deployment = Deployment::start();
    let audit = AuditLog::new(deployment.table.clone());
    let now = Timestamp::now();
    let mut last = None;
    for n in 0..Tokens::MAX {
        let new = NewToken { name: format!("t{n}"), role: Role::Viewer, instances: None, expires: None };
        let minted = MintedToken::new(new, "test", now).unwrap();
        let entry = AuditEntry::new(&admin(), "token.create", &minted.token.id, String::new());
        deployment.tokens.create(&minted, audit.op(&entry).unwrap()).await.unwrap();
        last = Some(minted.token.id);
    }
    let new = json!({ "name": "one more", "role": "viewer" });
    let (status, _, answer) = deployment.call(&admin(), Method::POST, "/v1/tokens", &new, &[]).await;
    assert_eq!(status, 409, "{answer}");
    deployment.done(Method::DELETE, &format!("/v1/tokens/{}", last.unwrap()), Value::Null).await;
    deployment.done(Method::POST, "/v1/tokens", new).await;
}

/// Would break: an answer that AWS does not let through, because a page of 1000 has more than 6 MB; items that such a cut loses.
#[tokio::test]
async fn a_page_ends_before_it_is_too_long() {
    let deployment = Deployment::filled().await;
    let now = deployment.catalog.snapshot().await.unwrap();
    let template = now.instance(&"third".parse().unwrap()).unwrap();
    let ca = Some(format!("-----BEGIN CERTIFICATE-----\n{}", "x".repeat(60_000)));
    let names: Vec<String> = (0..120).map(|n| format!("i{n:03}")).collect();
    let instances = names.iter().map(|name| Instance { name: name.parse().unwrap(), ca: ca.clone(), ..(**template).clone() });
    fill(&deployment, &instances.collect::<Vec<_>>(), &[], &[]).await;
    let page = deployment.done(Method::GET, "/v1/instances?limit=1000", Value::Null).await;
    let bytes = page.to_string().len();
    assert!((3_000_000..4_500_000).contains(&bytes) && page["next"].is_string(), "{bytes} bytes");
    for limit in [1000, 70, 7] {
        let all = deployment.all("/v1/instances", limit).await;
        let listed: Vec<&str> = all.iter().map(|one| one["name"].as_str().unwrap()).collect();
        assert_eq!(listed.len(), 123, "limit={limit}");
        assert_eq!(listed[1..121], names, "limit={limit}");
    }
}

/// Would break: a caller whose previews take all workers; a preview that is late and never shown; one that is asked for again and made
/// twice.
#[tokio::test]
async fn a_preview_that_is_late_is_told_where_to_look_for_and_only_some_may_be_open() {
    let deployment = Deployment::filled().await;
    let path = "/v1/instances/build/rules/all/preview";
    let keys: Vec<String> = (0..Previews::OPEN).map(|n| format!("key-{n}")).collect();
    let ask = async |key: &str| deployment.call(&admin(), Method::POST, path, &Value::Null, &[("idempotency-key", key)]).await;
    let all = futures_util::future::join_all(keys.iter().map(|key| ask(key))).await;
    for (status, headers, answer) in &all {
        assert_eq!(*status, 202, "{answer}");
        assert_eq!(headers["location"], format!("/v1/previews/{}", answer["preview"].as_str().unwrap()));
    }
    assert_eq!(deployment.awaited().await.len(), Previews::OPEN);

    let (status, headers, answer) = ask("one-more").await;
    assert_eq!((status, headers["retry-after"].to_str().unwrap()), (429, "15"), "{answer}");
    let (status, headers, again) = ask("key-0").await;
    assert_eq!((status, &again), (202, &all[0].2), "the same request is answered as before");
    assert_eq!(headers["idempotency-replayed"], "true");
    let other = somebody(Role::Viewer, &["build", "prod"]);
    let checked = async {
        let (status, _, answer) = deployment.call(&other, Method::POST, path, &Value::Null, &[]).await;
        assert_eq!(status, 200, "others are not kept waiting: {answer}");
        let location = format!("/v1/previews/{}", all[0].2["preview"].as_str().unwrap());
        assert_eq!(deployment.done(Method::GET, &location, Value::Null).await["items"], json!([]));
        assert_eq!(ask("one-more").await.0, 200, "those that are made are not open");
    };
    tokio::select! { () = checked => {}, _ = deployment.make_previews() => {} }
}
