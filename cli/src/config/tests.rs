//! What a file may say, and what is said about its mistakes.

use transship_model::{ArtifactType, EventPattern, Kind, RuleId};

use super::*;

const GOOD: &str = r"
instances:
  - name: build
    endpoint: http://127.0.0.1:5601
    kind: distribution
    region: eu-central-1
    zone: global
    credentials: { username: ci, password: env:BUILD_PASSWORD }
    webhook_secret: file:/run/secrets/build-hook
    token_realm: https://auth.example.com/token?service=build
  - { name: prod, endpoint: 'https://registry.example.com:8443/', kind: harbor, credentials: docker-config, webhook_auth: none }
  - { name: lab, endpoint: http://lab.internal:5000, plain_http: true }
rules:
  - name: release
    description: released images go to production
    source: { instance: build, namespace: team, repository: 'app-.*', tag: 'v\d+\..*', types: [image, chart] }
    target: { instance: prod, namespace: mirror }
    overwrite: true
    enabled: false
  - name: all
    source:
      instance: prod
      namespace: '*'
    target:
      instance: lab
";

/// The mistakes of a file, as they are printed.
fn mistakes(text: &str) -> Vec<String> {
    let mistakes = read(text).expect_err(text);
    assert!(mistakes.is_sorted(), "{mistakes:?}");
    mistakes.iter().map(Mistake::to_string).collect()
}

/// The only mistake of a file.
#[track_caller]
fn mistake(text: &str) -> String {
    let mistakes = mistakes(text);
    assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
    mistakes.into_iter().next().unwrap()
}

/// A file with a line changed.
#[track_caller]
fn changed(from: &str, to: &str) -> String {
    assert_eq!(GOOD.matches(from).count(), 1, "{from}");
    GOOD.replace(from, to)
}

/// Checks the only mistake of the good file after a change.
#[track_caller]
fn assert_mistake(from: &str, to: &str, parts: &[&str]) {
    let mistake = mistake(&changed(from, to));
    for part in parts {
        assert!(mistake.contains(part), "{mistake:?} has no {part:?}");
    }
}

#[test]
fn a_file_says_what_the_model_has() {
    let config = read(GOOD).unwrap();
    let [build, prod, lab] = &config.instances[..] else { panic!("three instances") };
    assert_eq!(
        (build.name.as_str(), build.endpoint.as_str(), build.kind),
        ("build", "http://127.0.0.1:5601/", Kind::Distribution)
    );
    assert_eq!((build.region.as_deref(), build.zone.as_deref()), (Some("eu-central-1"), Some("global")));
    let password = SecretRef::Env("BUILD_PASSWORD".into());
    assert_eq!(build.credentials, Credentials::Password { username: "ci".into(), password });
    assert_eq!(build.webhook, WebhookAuth::Secret(SecretRef::File("/run/secrets/build-hook".into())));
    assert_eq!(build.token_realm.as_ref().unwrap().as_str(), "https://auth.example.com/token?service=build");
    assert_eq!((prod.credentials.clone(), prod.webhook.clone()), (Credentials::DockerConfig, WebhookAuth::Open));
    assert_eq!((lab.kind, lab.plain_http, lab.webhook.clone()), (Kind::Oci, true, WebhookAuth::Closed));
    assert_eq!(lab.credentials, Credentials::Anonymous);

    let [release, all] = &config.rules[..] else { panic!("two rules") };
    assert_eq!((release.path(), release.id, release.revision), ("build/release".into(), RuleId(0), 0));
    assert_eq!(release.description, "released images go to production");
    assert_eq!((release.source.repository.as_str(), release.source.tag.as_str()), ("app-.*", r"v\d+\..*"));
    assert_eq!(release.source.types, [ArtifactType::Image, ArtifactType::Chart]);
    assert_eq!(release.target_namespace().as_str(), "mirror");
    assert_eq!((release.overwrite, release.enabled), (true, false));
    assert!(all.source.repository.is_any() && all.source.tag.is_any() && all.source.types.is_empty());
    assert_eq!((all.target.namespace.as_ref(), all.overwrite, all.enabled), (None, false, true));
    assert_eq!(config.warnings, []);
}

#[test]
fn an_instance_may_have_a_webhook_of_its_own() {
    let lab = "  - { name: lab, endpoint: http://lab.internal:5000, plain_http: true }";
    let with = |notify: &str| changed(lab, &format!("{lab}\n    # more\n").replace(" }", &format!(", notify: {notify} }}")));
    let notify = |text: &str| read(&with(text)).unwrap().instances[2].notify.clone().unwrap();
    let bare = notify("{ url: 'https://ci.example.com/hook?token=7' }");
    assert_eq!((bare.url.as_str(), bare.secret, bare.private_network), ("https://ci.example.com/hook?token=7", None, false));
    let full = notify("{ url: 'http://127.0.0.1:9000/', secret: env:HOOK, private_network: true }");
    assert_eq!((full.url.as_str(), full.secret), ("http://127.0.0.1:9000/", Some(SecretRef::Env("HOOK".into()))));
    assert!(full.private_network);
    for (text, part) in [
        ("https://ci.example.com/s3cret", "mapping"),
        ("{ secret: env:HOOK }", "url"),
        ("{ url: ci.example.com/s3cret }", "write https://"),
        ("{ url: 'ftp://ci.example.com/s3cret' }", "begin with https://"),
        ("{ url: 'https://me:s3cret@ci.example.com/' }", "user name and password"),
        ("{ url: 'https://ci.example.com/#s3cret' }", "fragment"),
        ("{ url: 'http://ci.example.com/s3cret' }", "in the clear"),
        ("{ url: 'http://localhost:9000/s3cret' }", "private_network: true"),
        ("{ url: 'https://10.1.2.3/s3cret' }", "private_network: true"),
        ("{ url: 'https://ci.example.com/', secret: s3cret }", "secrets are not written"),
        ("{ url: 'http://localhost/', private_network: perhaps }", "private_network"),
        ("{ url: 'https://ci.example.com/', sekret: env:HOOK }", "secret"),
    ] {
        let mistake = mistake(&with(text));
        assert!(mistake.contains("instances[2].notify") && mistake.contains(part), "{mistake}");
        assert!(!mistake.contains("s3cret"), "{mistake} tells a secret");
    }
}

#[test]
fn json_is_yaml_and_line_ends_and_a_byte_order_mark_do_not_matter() {
    let json = r#"{"instances": [{"name": "a", "endpoint": "https://a.test"}], "rules": []}"#;
    assert_eq!(read(json).unwrap().instances.len(), 1);
    assert_eq!(read(&GOOD.replace('\n', "\r\n")).unwrap().rules.len(), 2);
    assert_eq!(read(&format!("\u{feff}{GOOD}")).unwrap().rules.len(), 2);
}

#[test]
fn a_file_may_be_empty() {
    for text in ["", "\n", "# nothing\n", "---\n", "instances: []", "instances:\nrules:\n", "instances: []\nrules: []\n", "{}"]
    {
        let config = read(text).expect(text);
        assert!(config.instances.is_empty() && config.rules.is_empty(), "{text:?}");
    }
}

#[test]
fn every_mistake_is_told_with_its_line() {
    let text = r"instances:
  - name: Build
    endpoint: registry.example.com
    knd: harbor
  - name: prod
    endpoint: https://registry.example.com
    kind: 7
rules:
  - name: release
    source: { instance: prdo, tag: '(' }
    target:
      namespace: mirror
    overwrite: 'yes'
other: 1
";
    let mistakes = mistakes(text);
    let starts = [
        "line 2: instances[0].name: \"Build\" is not an instance name: ",
        "line 3: instances[0].endpoint: no URL: write https:// before the host",
        "line 4: instances[0]: there is no key 'knd' here: did you mean 'kind'?",
        "line 7: instances[1].kind: this is a number, and a text is needed",
        "line 10: rules[0].source: the key 'namespace' is missing: a path like 'team', '*' for all repositories, or '' for those",
        "line 10: rules[0].source.instance: there is no instance 'prdo': did you mean 'prod'? The instances are prod",
        "line 10: rules[0].source.tag: not a regular expression: unclosed group",
        "line 11: rules[0].target: the key 'instance' is missing: ",
        "line 13: rules[0].overwrite: this is a text, and true or false, without quotes, is needed",
        "line 14: there is no key 'other' here: the keys are instances, rules",
    ];
    assert_eq!(mistakes.len(), starts.len(), "{mistakes:#?}");
    for (mistake, start) in mistakes.iter().zip(starts) {
        assert!(mistake.starts_with(start), "{mistake:?} is not {start:?}");
    }
    let columns: Vec<_> = read(text).unwrap_err().iter().map(|mistake| mistake.column).collect();
    assert_eq!(columns, [11, 15, 5, 11, 5, 25, 36, 5, 16, 1]);
}

#[test]
fn sections_and_entries_have_their_types() {
    assert!(
        mistake("- a")
            .starts_with("line 1: this is a list, and a mapping with the keys instances, rules, subscriptions is needed")
    );
    assert!(mistake("instances: 5").starts_with("line 1: instances: this is a number, and a list is needed"));
    assert!(mistake("instances:\n  a: b").starts_with("line 1: instances: this is a mapping, and a list is needed"));
    assert!(mistake("rules:\n  - x").starts_with("line 2: rules[0]: this is a text, and a mapping with the keys name, "));
    assert!(mistake("rules:\n  -\n").contains("rules[0]: there is no value, and a mapping"));
    assert!(mistake("1: 2").contains("a key that is no text"));
    assert!(mistake("instances: !mine [a]").contains("a value with a tag (!)"));
    assert_mistake("namespace: team,", "namespace: ,", &["line 16:", "source.namespace: there is no value: write '*' for all"]);
    assert_mistake(
        "region: eu-central-1",
        "region:",
        &["line 6: instances[0].region: there is no value, and a text is needed"],
    );
    assert_mistake("tag: 'v\\d+\\..*'", "tag: 1.10", &["source.tag: this is a number", "in quotes"]);
    assert_mistake("tag: 'v\\d+\\..*'", "tag: [a-z]", &["source.tag: this is a list", "begins with '[' has to be in quotes"]);
    assert_mistake("types: [image, chart]", "types: image", &["source.types: this is a text, and a list is needed"]);
    assert_mistake("[image, chart]", "[image, charts]", &["types[1]: 'charts' is no artifact type: did you mean 'chart'?"]);
    assert_mistake("[image, chart]", "[image, image]", &["types: a type is given twice"]);
}

#[test]
fn a_key_that_is_given_twice_is_a_mistake_and_hides_no_other() {
    let text = "instances:
  - name: a
    endpoint: https://a.test
    name: b
    'endpoint': 7
  - { name: c, endpoint: https://c.test, \"name\": d, kind: x }
  - { name: c, endpoint: https://c.test }
";
    let mistakes = mistakes(text);
    let starts = [
        "line 4: the key 'name' is given twice here",
        "line 5: the key 'endpoint' is given twice here",
        "line 6: the key 'name' is given twice here",
        "line 6: instances[1].kind: 'x' is no kind: The kinds are distribution, harbor, ecr, ghcr, google, acr, quay, docker-hub, gitlab, tcr, oci",
        "line 7: instances[2].name: line 6 has an instance 'c' already",
    ];
    assert_eq!(mistakes.len(), starts.len(), "{mistakes:#?}");
    for (mistake, start) in mistakes.iter().zip(starts) {
        assert!(mistake.starts_with(start), "{mistake:?} is not {start:?}");
    }
    let many = "a: 1\n".repeat(1000);
    assert!(read(&many).unwrap_err().len() < 50);
}

#[test]
fn all_keys_that_are_given_twice_are_named() {
    let pairs = |indent: &str| (0..10).map(|at| format!("{indent}key{at}: 1\n{indent}'key{at}': 2\n")).collect::<String>();
    // Also in what nothing else is read of.
    for (above, indent, first) in [("", "", 2), ("instances:\n  - x:\n", "      ", 4)] {
        let mistakes = mistakes(&format!("{above}{}", pairs(indent)));
        for at in 0..10 {
            let wanted = format!("line {}: the key 'key{at}' is given twice here: take one of the two away", first + 2 * at);
            assert!(mistakes.contains(&wanted), "{mistakes:#?} has no {wanted:?}");
        }
    }
    assert!(mistakes("a: &x 1\n? *x\n: 2\n? [b]\n: 3\n? [b]\n: 4").iter().all(|mistake| !mistake.contains("twice")));
    // A file that is not YAML further down has them too.
    assert_eq!(mistakes("a: 1\na: 2\nb: [")[0], "line 2: the key 'a' is given twice here: take one of the two away");
    // When there are too many to be read, it is said that there are more.
    let many = mistakes(&"instances: []\n".repeat(1000));
    assert_eq!(many.len(), 41, "{many:#?}");
    assert!(many[40].contains("line 42: there are more mistakes like the ones before"), "{many:#?}");
}

#[test]
fn an_endpoint_is_scheme_host_and_port() {
    let endpoint = "http://127.0.0.1:5601";
    for (wrong, parts) in [
        ("https://registry.example.com/v2/", &["take away the path"][..]),
        ("https://registry.example.com?x=1#y", &["take away the query (after '?') and the fragment (after '#')"]),
        ("localhost:5000", &["begin with https://"]),
        ("ftp://registry.example.com", &["begin with https://"]),
        ("'https://'", &["no URL: empty host"]),
        ("http://registry.example.com", &["in the clear", "'plain_http: true'"]),
        ("http://127.0.0.1.example.com", &["'plain_http: true'"]),
    ] {
        assert_mistake(endpoint, wrong, parts);
    }
    for right in ["https://registry.example.com", "http://localhost:5000", "'http://[::1]:5000'", "http://127.1.2.3"] {
        assert!(read(&changed(endpoint, right)).is_ok(), "{right}");
    }
    // A flag that can't be read is one mistake, not two.
    assert_mistake("plain_http: true", "plain_http: yes", &["instances[2].plain_http: this is a text, and true or false"]);
    assert_mistake(
        "https://auth.example.com/token?service=build",
        "http://auth.example.com/token",
        &["token_realm", "plain_http"],
    );
    let config = read(&changed("http://lab.internal:5000", "https://lab.internal:5000")).unwrap();
    let [warning] = &config.warnings[..] else { panic!("{:?}", config.warnings) };
    assert!(warning.to_string().starts_with("line 12: instances[2].plain_http: has no effect"), "{warning}");
}

#[test]
fn an_instance_says_how_repositories_of_ecr_are_made() {
    let lab = "{ name: lab, endpoint: http://lab.internal:5000, plain_http: true }";
    let host = "https://123456789012.dkr.ecr.eu-central-1.amazonaws.com";
    let with = |ecr: &str| changed(lab, &format!("{{ name: lab, endpoint: '{host}', credentials: ecr, ecr: {ecr} }}"));
    let config =
        read(&with("{ immutable_tags: true, kms_key: alias/registry, tags: { 'cost centre': a/b, team: 'x' } }")).unwrap();
    let settings = config.instances[2].ecr.clone();
    assert!(settings.immutable_tags && !settings.scan_on_push && config.warnings.is_empty());
    assert_eq!(settings.kms_key.as_deref(), Some("alias/registry"));
    let tags: Vec<_> = settings.tags.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(tags, [("cost centre", "a/b"), ("team", "x")]);
    assert!(read(&with("{}")).unwrap().instances[2].ecr.is_default());
    for (wrong, part) in [
        ("{ imutable_tags: true }", "did you mean 'immutable_tags'?"),
        ("{ scan_on_push: 1 }", "ecr.scan_on_push: this is a number, and true or false"),
        ("{ kms_key: '' }", "ecr.kms_key: is empty"),
        ("{ lifecycle_policy: '{}' }", "ecr.lifecycle_policy: has no rules"),
        ("{ tags: [a] }", "ecr.tags: this is a list, and a mapping of names to texts is needed"),
        ("{ tags: { a: 5 } }", "ecr.tags.a: this is a number"),
        ("{ tags: { 'aws:a': x } }", "does not begin with aws:"),
        ("{ tags: { a: 'x;y' } }", "a tag's value has up to 256"),
    ] {
        let mistake = mistake(&with(wrong));
        assert!(mistake.contains(part), "{mistake:?} has no {part:?}");
    }
    let config = read(&changed("plain_http: true }", "plain_http: true, ecr: { scan_on_push: true } }")).unwrap();
    let [warning] = &config.warnings[..] else { panic!("{:?}", config.warnings) };
    assert!(warning.to_string().starts_with("line 12: instances[2].ecr: has no effect"), "{warning}");
}

#[test]
fn an_instance_says_how_namespaces_of_tencent_are_made() {
    let lab = "plain_http: true }";
    let with = |tcr: &str| changed(lab, &format!("plain_http: true, kind: tcr, tcr: {tcr} }}"));
    let good = "{ registry_id: tcr-a1b2, region: ap-guangzhou, secret_id: AKIDx, secret_key: env:TENCENT_KEY }";
    let config = read(&with(good)).unwrap();
    let tcr = config.instances[2].tcr.clone().unwrap();
    assert_eq!((tcr.registry_id.as_str(), tcr.region.as_str(), tcr.secret_id.as_str()), ("tcr-a1b2", "ap-guangzhou", "AKIDx"));
    assert_eq!(tcr.secret_key, SecretRef::Env("TENCENT_KEY".into()));
    for (wrong, part) in [
        (good.replace("env:TENCENT_KEY", "hunter2"), "tcr.secret_key: secrets are not written into this file"),
        (good.replace(", region: ap-guangzhou", ""), "the key 'region' is missing"),
        (good.replace("tcr-a1b2", "a1b2"), "tcr.registry_id: a registry's ID begins with tcr-"),
        (good.replace("ap-guangzhou", "'Guang zhou'"), "tcr.region: a region's name is like ap-guangzhou"),
    ] {
        let mistake = mistake(&with(&wrong));
        assert!(mistake.contains(part) && !mistake.contains("hunter2"), "{mistake:?} has no {part:?}");
    }
    let config = read(&with(good).replace("kind: tcr", "kind: oci")).unwrap();
    let [warning] = &config.warnings[..] else { panic!("{:?}", config.warnings) };
    assert!(warning.to_string().starts_with("line 12: instances[2].tcr: has no effect"), "{warning}");
}

#[test]
fn an_api_is_scheme_host_and_port() {
    let with = |api: &str| changed("plain_http: true }", &format!("plain_http: true, kind: gitlab, api: '{api}' }}"));
    let config = read(&with("https://gitlab.example.com")).unwrap();
    assert_eq!(config.instances[2].api.as_ref().unwrap().as_str(), "https://gitlab.example.com/");
    for (wrong, part) in [("https://gitlab.example.com/api/v4", "take away the path"), ("gitlab.example.com", "write https://")]
    {
        let mistake = mistake(&with(wrong));
        assert!(mistake.contains("instances[2].api: ") && mistake.contains(part), "{mistake}");
    }
}

#[test]
fn no_message_shows_a_secret() {
    const SECRET: &str = "hunter2-Xyzzy";
    for (from, to) in [
        ("env:BUILD_PASSWORD", "hunter2-Xyzzy"),
        ("env:BUILD_PASSWORD", "env:hunter2-Xyzzy"),
        ("env:BUILD_PASSWORD", "[hunter2-Xyzzy]"),
        ("env:BUILD_PASSWORD", "{ hunter: hunter2-Xyzzy }"),
        ("env:BUILD_PASSWORD", "!hunter2-Xyzzy"),
        ("env:BUILD_PASSWORD", "&hunter2-Xyzzy env:A"),
        ("env:BUILD_PASSWORD", "*hunter2-Xyzzy"),
        ("username: ci", "username: 'ci:hunter2-Xyzzy'"),
        ("credentials: docker-config", "credentials: 'ci:hunter2-Xyzzy'"),
        ("file:/run/secrets/build-hook", "hunter2-Xyzzy"),
        ("file:/run/secrets/build-hook", "'vault:hunter2-Xyzzy'"),
        ("webhook_auth: none", "webhook_auth: hunter2-Xyzzy"),
        ("http://127.0.0.1:5601", "https://ci:hunter2-Xyzzy@registry.example.com"),
        ("http://127.0.0.1:5601", "ci:hunter2-Xyzzy@registry.example.com"),
        ("http://127.0.0.1:5601", "https://registry.example.com/?password=hunter2-Xyzzy"),
        ("http://127.0.0.1:5601", "https://ci:hunter2-Xyzzy@"),
        ("https://auth.example.com/token?service=build", "https://ci:hunter2-Xyzzy@auth.example.com/"),
    ] {
        let message = mistake(&changed(from, to));
        assert!(!message.contains(SECRET) && !message.contains("hunter"), "{message}");
    }
    let keyed = mistakes(&changed("username: ci, password: env:BUILD_PASSWORD", "ci, hunter2-Xyzzy"));
    assert_eq!(keyed.len(), 4, "{keyed:?}");
    assert!(!keyed.concat().contains(SECRET), "{keyed:?}");
    assert_mistake("env:BUILD_PASSWORD", "12345", &["credentials.password: this is a number", "env:NAME or file:PATH"]);
    assert_mistake(
        "env:BUILD_PASSWORD",
        "$PASSWORD",
        &["credentials.password: secrets are not written", "env:NAME or file:PATH"],
    );
    assert_mistake("env:BUILD_PASSWORD", "'env:'", &["the name of an environment variable"]);
    assert_mistake("file:/run/secrets/build-hook", "'file:'", &["the path of a file"]);
    for name in ["'ssm:'", "ssm:/hunter2", "ssm:../hunter2", "ssm:arn:aws:ssm:eu-central-1:123456789012:parameter/hunter2"] {
        assert_mistake("env:BUILD_PASSWORD", name, &["password: after 'ssm:' comes a name below the deployment's prefix"]);
    }
    assert!(!mistake(&changed("env:BUILD_PASSWORD", "secretsmanager:hunter2!")).contains("hunter2"));
}

#[test]
fn what_functions_on_aws_cannot_read_is_known_with_its_line() {
    let text = changed("lab.internal:5000, plain_http: true", "lab.internal:5000, plain_http: true, ca: 'file:/etc/lab.pem'");
    let config = read(&text.replace("http://lab", "https://lab")).unwrap();
    let starts = [
        "line 8: instances[0].credentials.password: functions on AWS have no variables or files of yours",
        "line 9: instances[0].webhook_secret: functions on AWS have no variables or files of yours",
        "line 11: instances[1].credentials: functions on AWS have no Docker configuration",
        "line 12: instances[2].ca: functions on AWS can't read this file",
    ];
    assert_eq!(config.local.len(), starts.len(), "{:#?}", config.local);
    for (mistake, start) in config.local.iter().zip(starts) {
        assert!(mistake.to_string().starts_with(start), "{mistake} is not {start:?}");
    }
    let kept =
        text.replace("env:BUILD_PASSWORD", "ssm:build/password").replace("file:/run/secrets/build-hook", "secretsmanager:hook");
    let config = read(&kept.replace("credentials: docker-config, ", "").replace(", ca: 'file:/etc/lab.pem'", "")).unwrap();
    assert_eq!(config.local, []);
    let password = SecretRef::Parameter("build/password".parse().unwrap());
    assert_eq!(config.instances[0].credentials, Credentials::Password { username: "ci".into(), password });
    assert_eq!(config.instances[0].webhook, WebhookAuth::Secret(SecretRef::SecretsManager("hook".parse().unwrap())));
}

/// An instance with these credentials, at this endpoint.
fn with_credentials(endpoint: &str, credentials: &str) -> String {
    format!("instances:\n  - {{ name: a, endpoint: 'https://{endpoint}', credentials: {credentials} }}\n")
}

#[test]
fn there_are_several_ways_to_log_in() {
    let ecr = "123456789012.dkr.ecr.eu-central-1.amazonaws.com";
    let credentials =
        |endpoint: &str, text: &str| read(&with_credentials(endpoint, text)).expect(text).instances.remove(0).credentials;
    assert_eq!(credentials(ecr, "ecr"), Credentials::Ecr { role: None });
    let role = "arn:aws:iam::123456789012:role/mirror";
    let with_role = Credentials::Ecr { role: Some(role.parse().unwrap()) };
    assert_eq!(credentials(ecr, &format!("{{ ecr: {{ role: '{role}' }} }}")), with_role);
    let token = SecretRef::Env("TOKEN".into());
    assert_eq!(credentials("a.test", "{ refresh_token: env:TOKEN }"), Credentials::RefreshToken(token));

    for (endpoint, text, parts) in [
        (
            ecr,
            "{ ecr: { role: 'arn:aws:iam::1234:role/x' } }",
            &[
                "credentials.ecr.role: \"arn:aws:iam::1234:role/x\" is not the ARN of a role: like 'arn:aws:iam::123456789012:role/NAME'",
            ][..],
        ),
        (ecr, "{ ecr: { role: 7 } }", &["credentials.ecr.role: this is a number"]),
        (ecr, "{ ecr: {} }", &["the key 'role' is missing: without one, write 'credentials: ecr'"]),
        (ecr, "{ ecr: { rol: x } }", &["there is no key 'rol' here: did you mean 'role'?"]),
        (ecr, "{ ecr: true }", &["credentials.ecr: this is true or false, and a mapping"]),
        (ecr, "{ ecr: { role: 'arn:aws:iam::123456789012:role/x' }, username: a }", &["two ways to log in"]),
        (
            "a.test",
            "{ refresh_token: env:A, password: env:B }",
            &["two ways to log in: keep username and password, or refresh_token"],
        ),
        ("a.test", "{ refresh_token: hunter2 }", &["credentials.refresh_token: secrets are not written into this file"]),
        ("a.test", "{ refresh-token: env:A }", &["did you mean 'refresh_token'?"]),
        ("a.test", "ECR", &["credentials: ", "'docker-config', or 'ecr'"]),
        ("public.ecr.aws", "ecr", &["ECR's public registry takes no such passwords: leave the credentials out"]),
    ] {
        let all = mistakes(&with_credentials(endpoint, text));
        for part in parts {
            assert!(
                all.iter().any(|mistake| mistake.starts_with("line 2: instances[0]") && mistake.contains(part)),
                "{all:#?} have no {part:?}"
            );
            assert!(!all.concat().contains("hunter2"));
        }
    }
}

#[test]
fn ecr_without_a_region_in_sight_is_warned_of_and_begins() {
    let of = |endpoint| read(&with_credentials(endpoint, "ecr")).unwrap();
    let named = of("123456789012.dkr.ecr.eu-central-1.amazonaws.com");
    assert_eq!((named.warnings.len(), missing(&named)), (0, Vec::new()));
    let elsewhere = of("registry.example.com");
    assert_eq!(missing(&elsewhere), Vec::<String>::new());
    // Cargo's own tests run with what is around them.
    if !instance::has_region() {
        let [told] = &elsewhere.warnings[..] else { panic!("one thing is hardly meant") };
        assert!(told.message.contains("credentials: neither the endpoint's host nor the environment names"), "{told}");
    }
}

const AUTHORITY: &str = "-----BEGIN CERTIFICATE-----\n\
MIIBnTCCAUOgAwIBAgIUcU/UHGKU2BXl+C3hwVftUWM/dzowCgYIKoZIzj0EAwIw\n\
IzEhMB8GA1UEAwwYdHJhbnNzaGlwIHRlc3QgYXV0aG9yaXR5MCAXDTI2MTEyMTE2\n\
MzAyMVoYDzIxMjYxMDI4MTYzMDIxWjAjMSEwHwYDVQQDDBh0cmFuc3NoaXAgdGVz\n\
dCBhdXRob3JpdHkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAATTyHbQXLWkweUE\n\
PXXiDW1KCHv/aYKDDeIcKmNb5BotVRKB77uQTQ10gCbKVPAb6YiW1a6VNCjBIPyp\n\
kdzMVka6o1MwUTAdBgNVHQ4EFgQUEevjwOL6sCJJfBFLzVLbNCmGoCowHwYDVR0j\n\
BBgwFoAUEevjwOL6sCJJfBFLzVLbNCmGoCowDwYDVR0TAQH/BAUwAwEB/zAKBggq\n\
hkjOPQQDAgNIADBFAiAlqPkhpQTGvwvy4au8fqsEHsOOvfOA4azIAE6ihOHRCQIh\n\
AJ+ITxNikGy2B/E4lFeo4U16NXE6BEvYmwURCiXqhdKi\n\
-----END CERTIFICATE-----\n\
";

#[test]
fn an_authority_is_a_file_with_its_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem").display().to_string();
    let with = |ca: &str| format!("instances:\n  - {{ name: a, endpoint: 'https://a.test', ca: '{ca}' }}\n");
    let of_file = || with(&format!("file:{path}"));
    let [told] = &missing(&read(&of_file()).unwrap())[..] else { panic!("it is not there") };
    assert!(told.starts_with(&format!("instance 'a': ca: the file {path} can't be read: No such file")), "{told}");
    fs::write(&path, "-----BEGIN PRIVATE KEY-----\nhunter2=\n-----END PRIVATE KEY-----\n").unwrap();
    let told = mistake(&of_file());
    assert!(told.contains(&format!("{path}: no certificate is in it: one or more certificates are needed, as text")), "{told}");
    assert!(!told.contains("hunter2"));
    fs::write(&path, format!("a comment\n{AUTHORITY}{AUTHORITY}")).unwrap();
    let good = read(&of_file()).unwrap();
    assert_eq!((good.instances[0].ca.as_deref(), missing(&good)), (Some(&*path), Vec::new()));
    for wrong in ["env:CA", "-----BEGIN CERTIFICATE-----", "file:", "/etc/ca.pem"] {
        assert!(mistake(&with(wrong)).contains("instances[0].ca: "), "{wrong}");
        assert!(mistake(&with(wrong)).contains("as file:PATH"), "{wrong}");
    }
    let plain = of_file().replace("https://a.test", "http://127.0.0.1:5000");
    assert!(read(&plain).unwrap().warnings[0].to_string().contains("instances[0].ca: has no effect"));
}

#[test]
fn a_webhook_has_a_secret_or_is_open_or_is_pointed_out() {
    assert_mistake("webhook_auth: none", "webhook_auth: none, webhook_secret: env:X", &["webhook_secret is given as well"]);
    assert_mistake("webhook_auth: none", "webhook_auth: basic", &["instances[1].webhook_auth", "'none'", "webhook_secret"]);
    assert_mistake("webhook_auth: none", "webhook_auth: {}", &["instances[1].webhook_auth", "'google' is missing"]);
    let google = "webhook_auth: { google: { service_account: push@shop.iam.gserviceaccount.com, audience: 'https://t.test/hooks/prod' } }";
    let WebhookAuth::Google(identity) = &read(&changed("webhook_auth: none", google)).unwrap().instances[1].webhook else {
        panic!("Google's identity")
    };
    assert_eq!(identity.service_account.as_str(), "push@shop.iam.gserviceaccount.com");
    assert_eq!(identity.audience, "https://t.test/hooks/prod");
    for (from, to, parts) in [
        (
            "push@shop.iam.gserviceaccount.com",
            "me@example.com",
            ["webhook_auth.google.service_account", "is not a service account"],
        ),
        ("'https://t.test/hooks/prod'", "'a b'", ["webhook_auth.google.audience", "without spaces"]),
        (", audience: 'https://t.test/hooks/prod'", "", ["webhook_auth.google", "'audience' is missing"]),
    ] {
        assert_mistake("webhook_auth: none", &google.replace(from, to), &parts);
    }
    let config = read(&changed(", webhook_auth: none", "")).unwrap();
    let [warning] = &config.warnings[..] else { panic!("{:?}", config.warnings) };
    let warning = warning.to_string();
    assert!(warning.starts_with("line 11: instances[1].name: the rule 'all' copies from 'prod', whose"), "{warning}");
}

#[test]
fn names_are_given_once() {
    let again = "  - { name: lab, endpoint: https://lab.test }\nrules:";
    assert_mistake("rules:", again, &["line 13: instances[3].name: line 12 has an instance 'lab' already"]);
    // Each source instance has names of its own.
    assert!(read(&changed("- name: all", "- name: release")).is_ok());
    let both = changed("- name: all", "- name: release").replace("      instance: prod\n", "      instance: build\n");
    assert!(mistake(&both).starts_with("line 20: rules[1].name: line 14 has a rule 'release' from 'build' already"));
}

#[test]
fn a_rule_keeps_the_promises_of_rules() {
    assert_mistake("instance: lab", "instance: prod", &["line 24: rules[1].target: source and target are the same place"]);
    assert_mistake("'app-.*'", "'app)|(b'", &["source.repository: not a regular expression: unopened group"]);
    assert_mistake("'app-.*'", "'*-app'", &["not a regular expression", "'.*'"]);
    assert_mistake("'app-.*'", "'a{1000}{1000}'", &["the regular expression is too large"]);
    assert_mistake("namespace: mirror", "namespace: Mirror", &["target.namespace: \"Mirror\" is not a namespace"]);
    let none = "rules:\n  - { name: r, source: { instance: a, namespace: '' }, target: { instance: a, namespace: b } }";
    let message = mistakes(none);
    assert_eq!(message.len(), 2, "{message:?}");
    assert!(message[0].contains("source.instance: there is no instance 'a': describe it under 'instances'"), "{message:?}");
}

#[test]
fn text_that_is_not_yaml_is_explained() {
    assert_mistake("namespace: '*'", "namespace: *", &["line 23: not YAML", "'*' has to be in quotes"]);
    assert_mistake("tag: 'v\\d+\\..*'", "tag: *x", &["line 16: not YAML", "'*' has to be in quotes"]);
    assert_mistake("tag: 'v\\d+\\..*'", "tag: & x", &["line 16: not YAML", "begins with this character has to be in quotes"]);
    assert_mistake("tag: 'v\\d+\\..*'", "tag: \"v\\d+\"", &["line 16: not YAML", "put patterns in single quotes"]);
    assert_mistake("    region:", "\tregion:", &["line 6: not YAML", "indent with spaces"]);
    assert_mistake("    region:", "    # für überall, überallhin\n\tregion:", &["line 7: not YAML", "indent with spaces"]);
    assert_mistake("kind: dist", "# überall\n    kind: @dist", &["line 6: not YAML", "begins with this character"]);
    assert_mistake("released images", "released: images", &["line 15: not YAML", "': ' in it has to be in quotes"]);
    assert_mistake("kind: distribution", "kind: \"distribution", &["not YAML"]);
    assert!(mistake("a: [").contains("not YAML"));
    assert!(mistake(&format!("{GOOD}---\nrules: []\n")).starts_with("line 27: a second document begins here"));
    assert!(mistake("a: \0").contains("not YAML"));
}

#[test]
fn anchors_aliases_and_tags_are_refused_with_their_lines() {
    let yaml_mistakes = |text: &str| {
        let told = mistakes(text).into_iter().filter(|mistake| mistake.contains("YAML"));
        told.map(|mistake| mistake.split(" (").next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let laughs = "instances: &a [x, x]\nrules: &b\n  - [*a, *a]\n  - *b\n";
    let told = [(1, "anchor"), (2, "anchor"), (3, "alias"), (3, "alias"), (4, "alias")];
    assert_eq!(yaml_mistakes(laughs), told.map(|(line, what)| format!("line {line}: this is a YAML {what}")));
    for text in ["- &a", "? &a x", "{ a: &a x }", "[&a x]", "[x,&a x]", "- !!str &a x", "{\"a\":&a x}"] {
        assert_eq!(yaml_mistakes(text), ["line 1: this is a YAML anchor"], "{text}");
    }
    for text in ["a:\n  &a x", "a:\r  &a x"] {
        assert_eq!(yaml_mistakes(text), ["line 2: this is a YAML anchor"], "{text}");
    }
    // An anchor hides no mistake in what it stands before, and an alias brings none with it.
    let aliased = changed("region: eu-central-1", "region: &r eu").replace("zone: global", "zone: *r\n    knd: x");
    assert_eq!(mistakes(&aliased).len(), 3);
    // These are texts.
    for text in ["R&D", "salt & pepper", "https://a.test?b=1&c=2", "'&x'", "\"&x *y\"", "'- &x, *x'", "'*x'", "|\n      - &x"] {
        assert!(read(&changed("released images go to production", text)).is_ok(), "{text}");
    }
    assert_mistake("name: all", "name: !mine all", &["line 20: this is a value with a tag (!)", "take the tag away"]);
    assert_mistake("enabled: false", "enabled: !!bool false", &["line 19: this is a value with a tag (!)"]);
    let tagged = changed("name: all", "name: !!str 7")
        .replace("[image, chart]", "!!seq [image]")
        .replace("target:\n", "target: !!map\n");
    assert_eq!(read(&tagged).unwrap().rules[1].name.as_str(), "7");
}

#[test]
fn what_a_file_can_expand_to_is_bounded() {
    // As deep as it can get: the depth is 64, counting the mapping that `[a: ]` has in it.
    for (open, close, depth) in [("[", "]", 1), ("{a: ", "}", 1), ("[a: ", "]", 2)] {
        let text = |levels: usize| format!("{}{}{}", "- ".repeat(24), open.repeat(levels), close.repeat(levels));
        let deepest = text(40 / depth);
        assert!(mistake(&deepest).contains("this is a list, and a mapping"), "{}", mistake(&deepest));
        assert!(mistake(&deepest.replace("- ", "? ")).contains("a key that is no text"));
        assert!(mistake(&text(40 / depth + 1)).starts_with("line 1: nested more than 64 levels deep"));
    }
    let deep = 100_000;
    for text in
        ["- ".repeat(deep), "? ".repeat(deep), "-\t".repeat(deep), ": ".repeat(deep), format!("a: {}", "- ".repeat(deep))]
    {
        assert!(mistakes(&text)[0].starts_with("line 1: n"), "{:?}", mistakes(&text));
    }
    let stairs: String = (0..1000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    assert!(mistake(&stairs).starts_with("line 65: nested more than 64 levels deep"));
    for (open, close) in [("[", "]"), ("{a: ", "}"), ("[a: ", "]"), ("{? ", "}"), ("[\n", "]\n")] {
        let closed = format!("{}{}", open.repeat(deep), close.repeat(deep));
        for text in [open.repeat(deep), format!("instances: {closed}"), closed] {
            assert_eq!(mistakes(&text).len(), 1, "{open}");
        }
    }
    // Two million items are in no file that is meant.
    for text in ["x,", ":,", "[],", "{},"].map(|item| format!("[{}]", item.repeat(MAX_SIZE / item.len() - 1))) {
        assert!(mistake(&text).starts_with("line 1: more than 400000 commas and brackets"));
    }
    assert!(mistake(&"-\n".repeat(MAX_SIZE / 2)).contains("more than 1048576 values"));
    assert!(mistakes(&"a:\n".repeat(MAX_SIZE / 3)).len() < 50);
    assert!(mistake(&" ".repeat(MAX_SIZE + 1)).contains("larger than 4 MiB"));
    let rule = "  - { name: r, source: { instance: a, namespace: a }, target: { instance: b } }\n";
    let instances = "instances: [{ name: a, endpoint: 'https://a.test' }, { name: b, endpoint: 'https://b.test' }]\n";
    let many = format!("{instances}rules:\n{}", rule.repeat(MAX_RULES + 1));
    assert!(mistake(&many).starts_with("line 2: rules: 20001 entries are more than the 20000"));
    let many = format!("instances: [{}]", "x, ".repeat(MAX_INSTANCES + 1));
    assert!(mistake(&many).contains("instances: 1001 entries"));
}

#[test]
fn no_text_makes_the_reader_panic() {
    // Files that are cut off, and files with a character changed into one that means something.
    let indicators = ["", ":", "-", "[", "}", "'", "\"", "*", "|", "!", "#", "\t", "\n", "\u{1f6a2}", "\0"];
    for (at, indicator) in (0..GOOD.len()).zip(indicators.into_iter().cycle()) {
        let _ = read(&GOOD[..at]);
        let _ = read(&format!("{}{indicator}{}", &GOOD[..at], &GOOD[at + 1..]));
    }
}

#[test]
fn ten_thousand_rules_are_read() {
    let mut text =
        String::from("instances: [{ name: a, endpoint: 'https://a.test' }, { name: b, endpoint: 'https://b.test' }]\nrules:\n");
    for at in 0..10_000 {
        use fmt::Write as _;
        let source = format!("{{ instance: a, namespace: team-{at}, repository: 'app-{at}-.*', tag: 'v{at}\\.\\d+' }}");
        writeln!(text, "  - name: r{at}\n    source: {source}\n    target: {{ instance: b, namespace: mirror }}").unwrap();
    }
    assert_eq!(read(&text).unwrap().rules.len(), 10_000);
}

#[test]
fn a_file_is_loaded_and_its_mistakes_name_it() {
    let path = std::env::temp_dir().join(format!("transship-config-{}.yaml", std::process::id()));
    fs::write(&path, GOOD).unwrap();
    assert_eq!(load(&path).unwrap().rules.len(), 2);
    fs::write(&path, "instances: 5\nrule: []\n").unwrap();
    let shown = load(&path).unwrap_err().to_string();
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines.len(), 2, "{shown}");
    assert!(lines[0].starts_with(&format!("{}:1:12: instances: this is a number", path.display())), "{shown}");
    assert!(lines[1].starts_with(&format!("{}:2:1: there is no key 'rule' here: did you mean 'rules'?", path.display())));
    fs::write(&path, b"# a\n# b\xff\n").unwrap();
    assert!(load(&path).unwrap_err().to_string().ends_with(":2:4: not UTF-8 text: save the file as UTF-8"));
    fs::write(&path, vec![b'#'; MAX_SIZE + 1]).unwrap();
    assert!(load(&path).unwrap_err().to_string().ends_with("the file is larger than 4 MiB"));
    fs::remove_file(&path).unwrap();
    let gone = load(&path).unwrap_err().to_string();
    assert!(gone.starts_with(&format!("{} can't be read: ", path.display())), "{gone}");
}

#[test]
fn secrets_that_are_not_there_are_named() {
    let file = std::env::temp_dir().join(format!("transship-secret-{}", std::process::id()));
    fs::write(&file, "").unwrap();
    let text = GOOD
        .replace("env:BUILD_PASSWORD", "env:TRANSSHIP_TEST_NEVER_SET")
        .replace("file:/run/secrets/build-hook", &format!("file:{}", file.display()));
    let config = read(&text).unwrap();
    let told = missing(&config);
    let [password, hook] = &told[..] else { panic!("{told:?}") };
    let problem = "the environment variable TRANSSHIP_TEST_NEVER_SET is not set";
    assert_eq!(*password, format!("instance 'build': credentials.password: {problem}"));
    assert_eq!(*hook, format!("instance 'build': webhook_secret: the file {} is empty", file.display()));
    fs::write(&file, "s").unwrap();
    assert_eq!(missing(&config).len(), 1);
    fs::remove_file(&file).unwrap();
    assert!(missing(&config)[1].contains("can't be read"));
    let set = read(&text.replace("TRANSSHIP_TEST_NEVER_SET", "PATH").replace(&file.display().to_string(), "/")).unwrap();
    assert_eq!(missing(&set), ["instance 'build': webhook_secret: / is a directory"]);
}

/// Would break: sample events whose configuration nobody can apply.
#[test]
fn the_configuration_of_the_sample_events_is_right() {
    let config = read(include_str!("../../../events/sync.yaml")).unwrap();
    assert_eq!((config.instances.len(), config.rules.len(), config.warnings.len()), (16, 15, 0), "{:?}", config.warnings);
}

/// Would break: a subscription that hears of something else than the file says, or whose mistake nobody is told of; a URL with a token,
/// shown in a message.
#[test]
fn a_file_says_who_is_told_of_what() {
    let with = |subscriptions: &str| format!("{GOOD}subscriptions:\n{subscriptions}");
    let config = read(&with(
        "  - { name: chat, webhook: { url: 'https://chat.example.com/T0/s3cret' } }
  - name: ci
    description: for the release channel
    instances: [build, lab]
    rules: [build/release, prod/all]
    events: [task.failed, resource.*]
    webhook: { url: 'http://10.0.0.7/hook', secret: env:CI_SECRET, private_network: true }
    enabled: false
",
    ))
    .unwrap();
    let [chat, ci] = &config.subscriptions[..] else { panic!("two subscriptions") };
    assert_eq!((chat.name.as_str(), chat.enabled, chat.instances.len(), chat.rules.len()), ("chat", true, 0, 0));
    assert_eq!(chat.events, EventPattern::tasks());
    assert_eq!((ci.description.as_str(), ci.enabled, ci.webhook.private_network), ("for the release channel", false, true));
    assert_eq!(ci.instances.iter().map(ToString::to_string).collect::<Vec<_>>(), ["build", "lab"]);
    assert_eq!(ci.rules.iter().map(ToString::to_string).collect::<Vec<_>>(), ["build/release", "prod/all"]);
    assert_eq!(ci.events.iter().map(ToString::to_string).collect::<Vec<_>>(), ["task.failed", "resource.*"]);
    assert_eq!(ci.webhook.secret, Some(SecretRef::Env("CI_SECRET".into())));

    let webhook = "webhook: { url: 'https://chat.example.com/T0/s3cret' }";
    for (text, parts) in [
        (format!("{{ name: a, {webhook}, instances: [biuld] }}"), ["subscriptions[0].instances[0]", "did you mean 'build'"]),
        (format!("{{ name: a, {webhook}, rules: [build/relaese] }}"), ["rules[0]", "did you mean 'build/release'"]),
        (format!("{{ name: a, {webhook}, rules: [release] }}"), ["rules[0]", "INSTANCE/RULE"]),
        (format!("{{ name: a, {webhook}, events: [task.fail] }}"), ["events[0]", "did you mean 'task.failed'"]),
        (format!("{{ name: a, {webhook}, events: [] }}"), ["events", "leave 'events' out"]),
        (format!("{{ name: a, {webhook}, events: [task.*, task.*] }}"), ["events", "twice"]),
        (format!("{{ name: A, {webhook} }}"), ["name", "lowercase"]),
        (format!("{{ name: 'instance:build', {webhook} }}"), ["name", "choose another"]),
        ("{ name: a }".into(), ["webhook", "https://ci.example.com"]),
        ("{ name: a, webhook: { url: 'http://chat.example.com/s3cret' } }".into(), ["webhook.url", "in the clear"]),
        (format!("{{ name: a, {webhook} }}\n  - {{ name: a, {webhook} }}"), ["subscriptions[1].name", "already"]),
    ] {
        let mistake = mistake(&with(&format!("  - {text}\n")));
        assert!(parts.iter().all(|part| mistake.contains(part)), "{mistake}");
        assert!(!mistake.contains("s3cret"), "{mistake} tells a secret");
    }
}

/// Would break: two rules that overwrite each other's tags without a word; ten thousand warnings.
#[test]
fn rules_that_may_write_the_same_tags_are_warned_of() {
    let text = |rules: usize, more: &str| {
        let mut text = String::from("instances:\n  - { name: prod, endpoint: 'https://prod.example' }\n");
        for n in 0..rules {
            text += &format!("  - {{ name: b{n}, endpoint: 'https://b{n}.example', webhook_auth: none }}\n");
        }
        text += "rules:\n";
        for n in 0..rules {
            text += &format!(
                "  - {{ name: all, source: {{ instance: b{n}, namespace: team{more} }}, target: {{ instance: prod }} }}\n"
            );
        }
        text
    };
    let config = read(&text(2, "")).unwrap();
    let [warning] = &config.warnings[..] else { panic!("{:?}", config.warnings) };
    let told = "line 7: rules[1].name: may write the same tags at 'prod' as the rule b0/all, from another source";
    assert!(warning.to_string().starts_with(told), "{warning}");
    assert_eq!(read(&text(1, "")).unwrap().warnings, []);
    let many = read(&text(100, "")).unwrap().warnings;
    assert_eq!(many.len(), 21, "twenty, and that there are more");
    let apart = text(2, ", tag: 'v.*'").replacen("v.*", "nightly-.*", 1);
    assert_eq!(read(&apart).unwrap().warnings, []);
}

/// Would break: an example that its readers copy, and `check` then refuses.
#[test]
fn the_examples_of_the_documents_have_no_mistakes() {
    for document in [include_str!("../../../README.md"), include_str!("../../../docs/CONFIGURATION.md")] {
        let begin = document.find("```yaml\ninstances:").unwrap() + "```yaml\n".len();
        let example = &document[begin..][..document[begin..].find("```").unwrap()];
        let config = read(example).unwrap();
        assert!(config.instances.len() == 2 && config.rules.len() == 1, "{example}");
    }
}
