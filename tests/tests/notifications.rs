//! Ends of tasks, told to an instance's webhook and to a topic by the real binary.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use transship_tests::*;

/// Would break: a webhook that hears nothing of a push that was carried, of one that could not be, or hears of it in other words than the
/// log has; what was not delivered when the process ended, and is forgotten.
#[tokio::test]
async fn an_instance_s_webhook_is_told_how_its_tasks_end() {
    let mut transship = Transship::reserve();
    transship.set("NOTIFY_SECRET", "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX");
    let (build, prod) = (transship.registry("build").await, DockerRegistry::start().await);
    let sink = Sink::start().await;
    // At first nobody takes it.
    sink.answer(|_| 503);
    let notify = format!("notify: {{ url: '{}/hook', secret: env:NOTIFY_SECRET, private_network: true }}", sink.url());
    let target = instance("prod", prod.url()).replace(" }", &format!(", {notify} }}"));
    let rule = rule("release", "instance: build, namespace: team", "instance: prod, namespace: mirror", "");
    transship.start(&config(&[instance("build", build.url()), target], &[rule])).await;

    let image = Image::random(1).layers(1, 4 << 10).build();
    image.push(&build.at("team/app", "v1")).await;
    let task = transship.ended("build/release", 1).await.remove(0);
    sink.wait_for("a first try", Duration::from_secs(60), |_| true).await;
    transship.restart().await;
    sink.answer(|_| 200);
    let tries = sink.deliveries().len();
    wait_until("the notification comes again", Duration::from_secs(120), async || sink.deliveries().len() > tries).await;

    let deliveries = sink.deliveries();
    let id = format!("{}-ended", task["id"].as_str().unwrap());
    for delivery in &deliveries {
        assert_eq!((delivery.path.as_str(), delivery.header("webhook-id")), ("/hook", id.as_str()));
        assert!(delivery.header("webhook-signature").starts_with("v1,"));
        assert_eq!(delivery.body, deliveries[0].body, "the same bytes, however often");
    }
    let event = deliveries[0].json();
    assert_eq!((&event["type"], &event["subject"]), (&json!("io.transship.task.succeeded"), &json!("team/app:v1")));
    assert_eq!(event["source"], "/v1/instances/build/rules/release");
    let data = &event["data"];
    for (name, count) in task["counts"].as_object().unwrap() {
        assert_eq!(data["counts"][name], *count, "{name}");
    }
    for name in ["status", "success_rate", "created", "started", "ended", "repositories"] {
        assert_eq!(data[name], task[name], "{name}");
    }
    assert_eq!(data["resources"][0]["digest"], json!(image.digest()));
    assert_eq!(data["resources"][0]["target"]["repository"], "mirror/app");
}

/// Would break: `serve` with a topic that it tells nothing, or of everything although nobody asked for resources.
#[tokio::test]
async fn a_topic_of_sns_hears_of_what_serve_does() {
    let aws = Aws::start().await;
    let sdk = aws.sdk().await;
    let (sns, sqs) = (aws_sdk_sns::Client::new(&sdk), aws_sdk_sqs::Client::new(&sdk));
    let queue = sqs.create_queue().queue_name("subscriber").send().await.unwrap().queue_url.unwrap();
    let topic = sns.create_topic().name("announcements").send().await.unwrap().topic_arn.unwrap();
    let arn = format!("arn:aws:sqs:{}:000000000000:subscriber", Aws::REGION);
    sns.subscribe().topic_arn(&topic).protocol("sqs").endpoint(arn).send().await.unwrap();

    let mut transship = Transship::reserve();
    for (name, value) in aws.env() {
        transship.set(&name, &value);
    }
    transship.set("TRANSSHIP_TOPIC_ARN", &topic);
    transship.set("TRANSSHIP_TOPIC_RESOURCES", "all");
    let (build, prod) = (transship.registry("build").await, DockerRegistry::start().await);
    let instances = [instance("build", build.url()), instance("prod", prod.url())];
    let rules = [rule("release", "instance: build, namespace: team", "instance: prod, namespace: mirror", "")];
    transship.start(&config(&instances, &rules)).await;
    Image::random(1).layers(1, 4 << 10).build().push(&build.at("team/app", "v1")).await;

    let mut heard = BTreeSet::new();
    wait_until("the topic hears of the resource and the task", Duration::from_secs(120), async || {
        let received = sqs.receive_message().queue_url(&queue).max_number_of_messages(10).wait_time_seconds(1);
        for message in received.send().await.unwrap().messages.unwrap_or_default() {
            let envelope: Value = serde_json::from_str(&message.body.unwrap()).unwrap();
            let event: Value = serde_json::from_str(envelope["Message"].as_str().unwrap()).unwrap();
            heard.insert(event["type"].as_str().unwrap().to_owned());
        }
        heard.len() == 2
    })
    .await;
    assert!(heard.contains("io.transship.resource.copied") && heard.contains("io.transship.task.succeeded"), "{heard:?}");
}
