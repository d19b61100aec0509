use super::*;

/// What an operation on a rule is to be answered with.
struct Case(Method, String, Value, u16);

/// Would break: a rule that is written, run or looked through by who has only one of its ends; one that is led to, or away from, an
/// instance of others.
#[tokio::test]
async fn a_rule_takes_the_role_for_both_its_ends() {
    let deployment = Deployment::filled().await;
    let running = deployment.task("running", &[]).await;
    let broken = Happening::ScanEnded { total: 0, compared: 0, repositories: 0, error: Some("no answer".into()) };
    let ended = deployment.task("ended", &[broken]).await;
    let all = "/v1/instances/build/rules/all";
    let given = json!({ "source": { "instance": "build", "namespace": "x" }, "target": { "instance": "prod" } });
    let what = json!({ "instance": "build", "repository": "team/app", "tag": "v1" });
    let cases = |on_rule: u16, on_task: u16, ok: bool| {
        let when = |status: u16, wanted: u16| if ok { status } else { wanted };
        vec![
            Case(Method::PUT, format!("{all}?start=false"), to("prod"), when(200, on_rule)),
            Case(Method::PATCH, all.into(), json!({ "description": "other words" }), when(200, on_rule)),
            Case(Method::POST, format!("{all}/sync"), Value::Null, when(202, on_rule)),
            Case(Method::POST, format!("{all}/preview"), Value::Null, when(200, on_rule)),
            // A target that is not theirs is none that they may name.
            Case(Method::POST, "/v1/preview".into(), given.clone(), when(200, if on_rule == 403 { 422 } else { on_rule })),
            Case(Method::POST, format!("/v1/tasks/{running}/cancel"), Value::Null, when(202, on_task)),
            Case(Method::POST, format!("/v1/tasks/{ended}/retry"), Value::Null, when(202, on_task)),
            Case(Method::DELETE, all.into(), Value::Null, when(204, on_rule)),
        ]
    };
    let move_to = |target: &str| json!({ "target": { "instance": target } });
    let near = "/v1/instances/build/rules/near";
    let checked = async {
        for (caller, cases) in [
            (somebody(Role::Operator, &["build"]), cases(403, 403, false)),
            (somebody(Role::Operator, &["prod"]), cases(404, 404, false)),
            (somebody(Role::Operator, &["third"]), cases(404, 404, false)),
            (
                somebody(Role::Operator, &["build", "third"]),
                vec![
                    // To what is not theirs, and away from it.
                    Case(Method::PATCH, near.into(), move_to("prod"), 422),
                    Case(Method::PUT, near.into(), to("prod"), 422),
                    Case(Method::PATCH, all.into(), move_to("third"), 403),
                    Case(Method::PUT, all.into(), to("third"), 403),
                    Case(Method::PATCH, near.into(), json!({ "enabled": false }), 200),
                ],
            ),
            (
                somebody(Role::Viewer, &["build", "prod"]),
                vec![
                    Case(Method::PATCH, all.into(), json!({ "enabled": false }), 403),
                    Case(Method::POST, format!("{all}/preview"), Value::Null, 200),
                    Case(Method::POST, "/v1/preview".into(), given.clone(), 200),
                    Case(Method::POST, "/v1/explain".into(), what.clone(), 200),
                ],
            ),
            (somebody(Role::Viewer, &["prod"]), vec![Case(Method::POST, "/v1/explain".into(), what.clone(), 404)]),
            (somebody(Role::Operator, &["build", "prod"]), cases(0, 0, true)),
        ] {
            for Case(method, path, body, wanted) in cases {
                let (status, _, answer) = deployment.call(&caller, method.clone(), &path, &body, &[]).await;
                assert_eq!(status, wanted, "{method} {path} by {}: {answer}", caller.name);
            }
            let rules = deployment.catalog.snapshot().await.unwrap();
            let target = |name: &str| {
                rules.rule_named(&"build".parse().unwrap(), &name.parse().unwrap()).map(|rule| rule.target.instance.to_string())
            };
            assert_eq!(target("near").as_deref(), Some("third"), "moved by {}", caller.name);
            assert!(target("all").is_none_or(|target| target == "prod"), "moved by {}", caller.name);
        }
    };
    tokio::select! { () = checked => {}, _ = deployment.make_previews() => {} }
}

/// Would break: a preview that shows what others have to who has been told its ID.
#[tokio::test]
async fn a_preview_is_shown_to_who_sees_both_ends_of_its_rule() {
    let deployment = Deployment::filled().await;
    let id = PreviewId::of(7);
    let made = Preview { rule: deployment.rule("all").await, items: Vec::new(), next: None, error: None };
    deployment.previews.put(&id, &made).await.unwrap();
    let path = format!("/v1/previews/{id}");
    for (instances, wanted) in
        [(&["build"][..], 404), (&["prod"], 404), (&["third"], 404), (&["build", "third"], 404), (&["build", "prod"], 200)]
    {
        let caller = somebody(Role::Viewer, instances);
        let (status, _, answer) = deployment.call(&caller, Method::GET, &path, &Value::Null, &[]).await;
        assert_eq!(status, wanted, "{instances:?}: {answer}");
    }
}

/// Would break: a token that outlives its only instance because the first DELETE was cut short; a receiver that is held to be down by who
/// is made under the same name.
#[tokio::test]
async fn nothing_is_left_of_an_instance_that_is_gone() {
    let deployment = Deployment::filled().await;
    let url = "https://receiver.example/hook";
    let wanted = json!({ "endpoint": "https://lab.example", "notify": { "url": url } });
    deployment.done(Method::PUT, "/v1/instances/lab", wanted).await;
    let catalog = deployment.catalog.snapshot().await.unwrap();
    let notify = catalog.instance(&"lab".parse().unwrap()).unwrap().notify.clone().unwrap();
    let name = "instance:lab".parse().unwrap();
    deployment.deliveries.refused(&name, &notify, true).await.unwrap();
    assert!(deployment.deliveries.standing(&name, &notify).await.unwrap().is_some());
    deployment.done(Method::DELETE, "/v1/instances/lab", Value::Null).await;
    assert!(deployment.deliveries.standing(&name, &notify).await.unwrap().is_none());

    let token = json!({ "name": "a test", "role": "viewer", "instances": ["third"] });
    let token = deployment.done(Method::POST, "/v1/tokens", token).await;
    deployment.done(Method::DELETE, "/v1/instances/build/rules/near", Value::Null).await;
    // As far as the first got.
    let third = "third".parse().unwrap();
    let gone = deployment.catalog.edit::<(), transship_state::StateError>(|_, draft| {
        draft.delete(&transship_state::Entry::Instance(InstanceName::clone(&third)));
        Ok(())
    });
    gone.await.unwrap();
    let (status, ..) = deployment.call(&admin(), Method::DELETE, "/v1/instances/third", &Value::Null, &[]).await;
    assert_eq!(status, 404);
    let path = format!("/v1/tokens/{}", token["id"].as_str().unwrap());
    assert_eq!(deployment.done(Method::GET, &path, Value::Null).await["status"], "revoked");
}
