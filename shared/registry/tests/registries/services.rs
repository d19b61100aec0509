//! What services do by APIs of their own, against servers that answer as the services' documentation says.

use serde_json::{Value, json};
use transship_model::{Digest, Kind, Namespace, Repository, Tag};
use transship_registry::{Deletion, Error, Login, Registry, Tcr};

use crate::fixture::*;

fn tag(name: &str) -> Tag {
    name.parse().unwrap()
}

fn digest(of: &str) -> Digest {
    Digest::of(of.as_bytes())
}

fn namespace(name: &str) -> Namespace {
    name.parse().unwrap()
}

fn service(kind: Kind, url: &str, credentials: Login) -> Registry {
    registry_with(url, |config| (config.kind, config.credentials) = (kind, credentials))
}

fn login(username: &str) -> Login {
    Login::Password { username: username.into(), password: "secret".to_owned().into() }
}

/// All tags with their digests, page by page, each cursor as it comes back from a message.
async fn digests(registry: &Registry, repository: &str) -> Vec<(String, Option<Digest>)> {
    let (mut all, mut cursor) = (Vec::new(), None);
    loop {
        let page = registry.list_digests(&repo(repository), cursor.as_ref()).await.unwrap();
        all.extend(page.items.into_iter().map(|(tag, digest)| (tag.to_string(), digest)));
        match page.next {
            Some(next) => cursor = Some(next.to_string().into()),
            None => return all,
        }
    }
}

async fn repositories(registry: &Registry, namespace: &Namespace) -> Vec<Repository> {
    let (mut all, mut cursor) = (Vec::new(), None);
    loop {
        let page = registry.list_repositories(namespace, cursor.as_ref()).await.unwrap();
        all.extend(page.items);
        match page.next {
            Some(next) => cursor = Some(next.to_string().into()),
            None => return all,
        }
    }
}

fn ok(body: &Value) -> axum::response::Response {
    answer(200, &[], body.to_string())
}

/// What `HEAD` of a tag answers.
fn head(digest: &Digest) -> axum::response::Response {
    let digest = digest.to_string();
    answer(200, &[("content-type", OCI_MANIFEST), ("docker-content-digest", &digest), ("content-length", "2")], "")
}

fn authorizations(fake: &Fake, part: &str) -> Vec<Option<String>> {
    fake.asked().into_iter().filter(|asked| asked.target.contains(part)).map(|asked| asked.authorization).collect()
}

/// <https://github.com/goharbor/harbor/blob/main/api/v2.0/swagger.yaml>, `listArtifacts`. Would break: one request for each tag of
/// Harbor, tags of artifacts that are children or have none, or a repository below a project not found.
#[tokio::test(flavor = "multi_thread")]
async fn harbor_lists_tags_with_their_artifacts() {
    let fake = Fake::start(|asked, _| {
        let list = "/api/v2.0/projects/team/repositories/base%252Fapp/artifacts?page=";
        let rest = "&page_size=100&q=tags%3D*&with_tag=true&with_accessory=false";
        let artifact =
            |n: usize, tags: Value| json!({"id": n, "type": "IMAGE", "digest": digest(&n.to_string()), "tags": tags});
        let target = asked.target.as_str();
        if target == format!("{list}1{rest}") {
            let tags = |n: usize| json!([{"id": n, "name": format!("v{n}"), "immutable": false}]);
            return ok(&(0..100).map(|n| artifact(n, tags(n))).collect());
        }
        assert_eq!(target, format!("{list}2{rest}"));
        ok(&json!([artifact(100, json!([{"name": "a"}, {"name": "b"}, {"name": "no tag"}])), artifact(101, Value::Null)]))
    })
    .await;
    let all = digests(&service(Kind::Harbor, &fake.url, password()), "team/base/app").await;
    assert_eq!(all.len(), 102);
    assert_eq!(all[7], ("v7".to_owned(), Some(digest("7"))));
    assert_eq!(all[100..], [("a".to_owned(), Some(digest("100"))), ("b".to_owned(), Some(digest("100")))]);
    assert_eq!(authorizations(&fake, "").len(), 2);
}

/// Would break: a robot that may pull and not list artifacts, whose reconciliation fails, or asks in vain each time.
#[tokio::test(flavor = "multi_thread")]
async fn where_a_project_s_artifacts_are_denied_its_tags_are_listed_without_digests() {
    let fake = Fake::start(|asked, _| match asked.target.as_str() {
        target if target.starts_with("/api/v2.0/projects/closed/") => answer(403, &[], r#"{"errors":[{"code":"FORBIDDEN"}]}"#),
        target if target.starts_with("/api/v2.0/projects/open/") => {
            ok(&json!([{"digest": digest("x"), "tags": [{"name": "v1"}]}]))
        }
        "/v2/closed/app/tags/list?n=1000" => {
            answer(200, &[("link", r#"</v2/closed/app/tags/list?last=v1>; rel="next""#)], r#"{"tags":["v1"]}"#)
        }
        "/v2/closed/app/tags/list?last=v1" => ok(&json!({"tags": ["v2"]})),
        "/v2/closed/other/tags/list?n=1000" => ok(&json!({"tags": ["v3"]})),
        other => panic!("{other}"),
    })
    .await;
    let harbor = service(Kind::Harbor, &fake.url, password());
    for _ in 0..2 {
        assert_eq!(digests(&harbor, "closed/app").await, [("v1".to_owned(), None), ("v2".to_owned(), None)]);
    }
    assert_eq!(digests(&harbor, "closed/other").await, [("v3".to_owned(), None)]);
    assert_eq!(fake.count("GET", "/api/v2.0/projects/closed/"), 1);
    // It is that project's denial, no other's.
    assert_eq!(digests(&harbor, "open/app").await, [("v1".to_owned(), Some(digest("x")))]);
}

/// Swagger as above, `listAllRepositories`, and the catalogue before there was one. Would break: rules for all of a Harbor.
#[tokio::test(flavor = "multi_thread")]
async fn harbor_lists_all_that_the_login_may_see() {
    for (status, body) in [(200, r#"[{"name":"team/app"}]"#), (404, "")] {
        let fake = Fake::start(move |asked, _| match asked.target.as_str() {
            "/api/v2.0/repositories?page=1&page_size=100&sort=name" => answer(status, &[], body),
            "/v2/_catalog?n=1000" => ok(&json!({"repositories": ["team/app"]})),
            other => panic!("{other}"),
        })
        .await;
        let harbor = service(Kind::Harbor, &fake.url, password());
        assert_eq!(repositories(&harbor, &namespace("*")).await, [repo("team/app")]);
    }
}

/// Swagger as above, `deleteTag`: the tag of an artifact. Would break: a tag deleted that was moved in the last moment, or the artifact
/// with its other tags.
#[tokio::test(flavor = "multi_thread")]
async fn harbor_deletes_a_tag_of_the_very_artifact() {
    let path = |of: &str| format!("/api/v2.0/projects/team/repositories/app/artifacts/{}/tags/v1", digest(of));
    let moved = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (there, order) = (moved.clone(), std::sync::atomic::Ordering::SeqCst);
    let fake = Fake::start(move |asked, _| match asked.method.as_str() {
        "HEAD" => head(&digest(if there.load(order) { "new" } else { "old" })),
        "DELETE" if asked.target == path("old") && !asked.target.contains("immutable") => {
            match there.swap(true, order) {
                // Another push came first: the tag is not this artifact's any more.
                false => {
                    answer(404, &[], r#"{"errors":[{"code":"NOT_FOUND","message":"tag v1 attached to artifact 1 not found"}]}"#)
                }
                true => answer(200, &[], ""),
            }
        }
        "DELETE" if asked.target == path("new") => answer(
            412,
            &[],
            r#"{"errors":[{"code":"PRECONDITION","message":"the tag v1 configured as immutable, cannot be deleted"}]}"#,
        ),
        other => panic!("{other} {}", asked.target),
    })
    .await;
    let harbor = service(Kind::Harbor, &fake.url, password());
    let delete = async |of: &str| harbor.delete_tag(&repo("team/app"), &tag("v1"), &digest(of)).await.unwrap();
    assert_eq!(delete("old").await, Deletion::Changed(digest("new")));
    let Deletion::NotSupported(reason) = delete("new").await else { panic!("it is immutable") };
    assert!(reason.contains("configured as immutable"), "{reason}");
    moved.store(false, order);
    assert_eq!(fake.count("DELETE", "/v2/team"), 0);
}

/// A server for Docker Hub's API: <https://docs.docker.com/reference/api/hub/latest/>.
async fn docker_hub() -> Fake {
    Fake::start(|asked, fake| {
        let authorized = asked.authorization.as_deref() == Some("Bearer hub-token");
        match (asked.method.as_str(), asked.target.as_str()) {
            // "Create access token"
            ("POST", "/v2/auth/token") => ok(&json!({"access_token": "hub-token"})),
            // "List repository tags"
            ("GET", "/v2/namespaces/team/repositories/app/tags?page=1&page_size=100") => ok(&json!({
                "count": 3,
                // It is not to be followed.
                "next": format!("{}/elsewhere?page=2", fake.url),
                "previous": null,
                "results": [
                    {"id": 1, "name": "v1", "digest": digest("index"), "images": [{"digest": digest("amd64"), "architecture": "amd64"}]},
                    {"id": 2, "name": "old", "images": [{"digest": digest("amd64")}]},
                ],
            })),
            ("GET", "/v2/namespaces/team/repositories/app/tags?page=2&page_size=100") => {
                ok(&json!({"count": 3, "next": null, "results": [{"name": "v2", "digest": digest("index")}]}))
            }
            ("GET", "/v2/namespaces/team/repositories/private/tags?page=1&page_size=100") => answer(404, &[], "{}"),
            // "List repositories in a namespace"
            ("GET", "/v2/namespaces/team/repositories?page=1&page_size=100") => {
                let mut results = vec![json!({"namespace": "team", "name": "app", "is_private": false})];
                if authorized {
                    results.push(json!({"namespace": "team", "name": "private", "is_private": true}));
                }
                ok(&json!({"next": null, "results": results}))
            }
            ("GET", "/v2/namespaces/many/repositories?page=1&page_size=100") => {
                let results: Vec<_> = (0..100).map(|n| json!({"namespace": "many", "name": format!("app{n}")})).collect();
                // It is not to be followed.
                ok(&json!({"next": format!("{}/elsewhere?page=2", fake.url), "results": results}))
            }
            ("GET", "/v2/namespaces/many/repositories?page=2&page_size=100") => {
                ok(&json!({"next": null, "results": [{"namespace": "many", "name": "last"}]}))
            }
            ("DELETE", "/v2/repositories/team/app/tags/v1/") if authorized => answer(204, &[], ""),
            ("DELETE", _) => answer(401, &[], r#"{"detail":"authentication required"}"#),
            other => panic!("{other:?}"),
        }
    })
    .await
}

/// Docker Hub's registry, and its API on another host.
fn hub(registry: &str, api: &Fake, credentials: Login) -> Registry {
    registry_with(registry, |config| {
        (config.kind, config.credentials, config.api) = (Kind::DockerHub, credentials, Some(api.url.parse().unwrap()));
    })
}

/// Would break: the digest of one platform taken for that of the index, so that nothing is ever in step; or a list that leads where the
/// answer says.
#[tokio::test(flavor = "multi_thread")]
async fn docker_hub_s_api_lists_the_digests_of_indexes() {
    let api = docker_hub().await;
    let registry = Fake::start(|asked, _| match asked.target.as_str() {
        "/v2/team/private/tags/list?n=1000" => ok(&json!({"tags": ["v1"]})),
        other => panic!("{other}"),
    })
    .await;
    let anonymous = hub(&registry.url, &api, Login::Anonymous);
    let index = Some(digest("index"));
    let expected = [("v1".to_owned(), index.clone()), ("old".to_owned(), None), ("v2".to_owned(), index)];
    assert_eq!(digests(&anonymous, "team/app").await, expected);
    assert!(authorizations(&api, "").iter().all(Option::is_none));
    // What it does not show may be there all the same.
    assert_eq!(digests(&anonymous, "team/private").await, [("v1".to_owned(), None)]);
    assert_eq!(repositories(&anonymous, &namespace("team")).await, [repo("team/app")]);
    let many = repositories(&anonymous, &namespace("many")).await;
    assert_eq!((many.len(), many.last()), (101, Some(&repo("many/last"))), "a second page");
    for all in ["*", ""] {
        let error = anonymous.list_repositories(&namespace(all), None).await.unwrap_err();
        assert!(error.to_string().contains("lists the repositories of one account"), "{error}");
    }
}

/// Would break: private repositories left out, a password sent with each request, or one token asked for each.
#[tokio::test(flavor = "multi_thread")]
async fn docker_hub_s_api_gets_a_token_of_its_own() {
    let (api, old) = (docker_hub().await, digest("old"));
    let registry = Fake::start(move |_, _| head(&old)).await;
    let hub = hub(&registry.url, &api, password());
    assert_eq!(repositories(&hub, &namespace("team")).await, [repo("team/app"), repo("team/private")]);
    let deleted = hub.delete_tag(&repo("team/app"), &tag("v1"), &digest("old")).await.unwrap();
    assert_eq!(deleted, Deletion::Deleted);
    assert_eq!(api.count("POST", "/v2/auth/token"), 1);
    let bearer = Some("Bearer hub-token".to_owned());
    assert_eq!(authorizations(&api, "/v2/namespaces"), std::slice::from_ref(&bearer));
    assert_eq!(authorizations(&api, "/tags/v1/"), [bearer]);
    // And the token does not go to the registry.
    assert!(authorizations(&registry, "").iter().all(Option::is_none), "{:?}", registry.asked());
}

/// Would break: nobody told why nothing is deleted.
#[tokio::test(flavor = "multi_thread")]
async fn docker_hub_deletes_for_who_may() {
    let (api, old) = (docker_hub().await, digest("old"));
    let registry = Fake::start(move |_, _| head(&old)).await;
    let error = hub(&registry.url, &api, Login::Anonymous).delete_tag(&repo("team/app"), &tag("v1"), &digest("old")).await;
    let error = error.unwrap_err();
    assert!(matches!(error, Error::Refused(_)) && error.to_string().contains("access token"), "{error}");
}

/// Would break: the credentials of some registry sent to Docker's or GitLab's hosts because its kind says so, or a redirect followed
/// with them.
#[tokio::test(flavor = "multi_thread")]
async fn no_api_is_guessed_for_a_host_that_is_not_the_service_s() {
    let mirror = Fake::start(|asked, _| match asked.target.as_str() {
        "/v2/team/app/tags/list?n=1000" => ok(&json!({"tags": ["v1"]})),
        "/v2/_catalog?n=1000" => ok(&json!({"repositories": ["team/app"]})),
        other => panic!("{other}"),
    })
    .await;
    let hub = service(Kind::DockerHub, &mirror.url, password());
    assert_eq!(digests(&hub, "team/app").await, [("v1".to_owned(), None)]);
    assert_eq!(repositories(&hub, &namespace("team")).await, [repo("team/app")]);
    let error = service(Kind::Gitlab, &mirror.url, password()).list_repositories(&namespace("team"), None).await.unwrap_err();
    assert!(error.to_string().contains("as api: https://gitlab.example.com"), "{error}");
}

/// <https://docs.redhat.com/documentation/red_hat_quay/3/html/red_hat_quay_api_reference/>, `listRepoTags` and `listRepos`.
async fn quay() -> Fake {
    Fake::start(|asked, _| {
        let authorized = asked.authorization.as_deref() == Some("Bearer secret");
        match (asked.method.as_str(), asked.target.as_str()) {
            (_, target) if target.starts_with("/api/v1/") && asked.authorization.is_some() && !authorized => {
                panic!("{target} with {:?}", asked.authorization)
            }
            ("GET", "/api/v1/repository/team/app/tag/?page=1&limit=100&onlyActiveTags=true") => ok(&json!({
                "tags": [{"name": "v1", "manifest_digest": digest("list"), "is_manifest_list": true, "start_ts": 1717680780}],
                "page": 1,
                "has_additional": true,
            })),
            ("GET", "/api/v1/repository/team/app/tag/?page=2&limit=100&onlyActiveTags=true") => ok(&json!({
                "tags": [{"name": "v2", "manifest_digest": digest("list")}], "page": 2, "has_additional": false,
            })),
            ("GET", "/api/v1/repository?namespace=team&public=true") => {
                ok(&json!({"repositories": [{"namespace": "team", "name": "app"}], "next_page": "gAAAA+/="}))
            }
            ("GET", "/api/v1/repository?namespace=team&public=true&next_page=gAAAA%2B%2F%3D") => {
                let name = if authorized { "private" } else { "public" };
                ok(&json!({"repositories": [{"namespace": "team", "name": name}]}))
            }
            ("GET", "/v2/_catalog?n=1000") => ok(&json!({"repositories": ["team/robot", "other/app"]})),
            ("HEAD", "/v2/team/app/manifests/v1") => head(&digest("list")),
            // A Quay that does not know the route.
            ("DELETE", "/v2/team/app/manifests/v1") => answer(404, &[], ""),
            ("DELETE", "/api/v1/repository/team/app/tag/v1") if authorized => answer(204, &[], ""),
            other => panic!("{other:?}"),
        }
    })
    .await
}

/// Would break: a robot's password sent to an API that does not know robots, or a private repository left out of a robot's list
/// because the API showed what is public.
#[tokio::test(flavor = "multi_thread")]
async fn quay_s_api_is_asked_by_whom_it_knows() {
    let fake = quay().await;
    let both = [("v1".to_owned(), Some(digest("list"))), ("v2".to_owned(), Some(digest("list")))];
    for credentials in [Login::Anonymous, login("$oauthtoken"), login("team+robot")] {
        assert_eq!(digests(&service(Kind::Quay, &fake.url, credentials), "team/app").await, both);
    }
    let of = async |credentials| repositories(&service(Kind::Quay, &fake.url, credentials), &namespace("team")).await;
    assert_eq!(of(Login::Anonymous).await, [repo("team/app"), repo("team/public")]);
    assert_eq!(of(login("$oauthtoken")).await, [repo("team/app"), repo("team/private")]);
    assert_eq!(of(login("team+robot")).await, [repo("team/robot")]);
}

/// `deleteFullTag`, where the specification's way is not there.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_quay_deletes_tags_by_its_api() {
    let fake = quay().await;
    let quay = service(Kind::Quay, &fake.url, login("$oauthtoken"));
    assert_eq!(quay.delete_tag(&repo("team/app"), &tag("v1"), &digest("list")).await.unwrap(), Deletion::Deleted);
    assert_eq!(fake.count("DELETE", "/api/v1/"), 1);
}

/// <https://docs.gitlab.com/api/container_registry/>. Would break: repositories of projects below a group left out, a project's not
/// found because its path is no group's, or GitLab's token sent without being one.
#[tokio::test(flavor = "multi_thread")]
async fn gitlab_s_api_lists_groups_and_projects() {
    let api = Fake::start(|asked, _| {
        assert_eq!(asked.authorization.as_deref(), Some("Bearer secret"));
        let found = |id: usize, path: String| json!({"id": id, "name": "", "path": path, "project_id": 9, "location": "…"});
        match (asked.method.as_str(), asked.target.as_str()) {
            ("GET", "/api/v4/groups/team/registry/repositories?page=1&per_page=100") => {
                ok(&(0..100).map(|n| found(n, format!("team/sub/app{n}"))).collect())
            }
            ("GET", "/api/v4/groups/team/registry/repositories?page=2&per_page=100") => {
                ok(&json!([found(100, "team/project".into())]))
            }
            ("GET", "/api/v4/projects/team%2Fproject/registry/repositories?page=1&per_page=100") => {
                ok(&json!([found(7, "team/project".into()), found(8, "team/project/base/app".into())]))
            }
            ("DELETE", "/api/v4/projects/9/registry/repositories/8/tags/v1") => answer(200, &[], ""),
            ("GET", _) => answer(404, &[], r#"{"message":"404 Group Not Found"}"#),
            other => panic!("{other:?}"),
        }
    })
    .await;
    let registry = Fake::start(|asked, _| match asked.method.as_str() {
        "HEAD" => head(&digest("x")),
        _ => answer(405, &[], r#"{"errors":[{"code":"UNSUPPORTED"}]}"#),
    })
    .await;
    let gitlab = registry_with(&registry.url, |config| {
        (config.kind, config.credentials, config.api) = (Kind::Gitlab, password(), Some(api.url.parse().unwrap()));
    });
    let all = repositories(&gitlab, &namespace("team")).await;
    assert_eq!((all.len(), &all[100]), (101, &repo("team/project")));
    // The project's own repository is not below it.
    assert_eq!(repositories(&gitlab, &namespace("team/project")).await, [repo("team/project/base/app")]);
    assert_eq!(repositories(&gitlab, &namespace("team/project/base")).await, [repo("team/project/base/app")]);
    let error = gitlab.list_repositories(&namespace("nobody/there"), None).await.unwrap_err();
    assert!(error.to_string().contains("no group and no project nobody/there"), "{error}");
    let deleted = gitlab.delete_tag(&repo("team/project/base/app"), &tag("v1"), &digest("x")).await.unwrap();
    assert_eq!(deleted, Deletion::Deleted);
}

/// <https://learn.microsoft.com/rest/api/containerregistry/tag/get-list> and `/delete`. Would break: a token without the right that the
/// API wants, or a locked tag tried for ever.
#[tokio::test(flavor = "multi_thread")]
async fn azure_lists_digests_and_takes_tags_away() {
    let fake = Fake::start(|asked, fake| {
        let scope = asked.target.split("scope=").nth(1).unwrap_or_default().to_owned();
        let may = asked.authorization.clone().unwrap_or_default();
        match (asked.method.as_str(), asked.target.as_str()) {
            ("GET", target) if target.starts_with("/oauth2/token") => ok(&json!({"access_token": scope})),
            _ if may.is_empty() => {
                let challenge = format!(r#"Bearer realm="{}/oauth2/token",service="x""#, fake.url);
                answer(401, &[("www-authenticate", &challenge)], "")
            }
            ("GET", "/acr/v1/team/app/_tags?n=1000") if may.contains("metadata_read") => answer(
                200,
                &[("link", r#"</acr/v1/team/app/_tags?last=v1&n=1000&orderby=>; rel="next""#)],
                json!({"registry": "x", "imageName": "team/app", "tags": [{"name": "v1", "digest": digest("x"), "signed": false}]})
                    .to_string(),
            ),
            ("GET", "/acr/v1/team/app/_tags?last=v1&n=1000&orderby=") => {
                ok(&json!({"tags": [{"name": "v2", "digest": digest("y")}]}))
            }
            ("HEAD", _) => head(&digest("x")),
            ("DELETE", "/acr/v1/team/app/_tags/v1") if may.contains("delete") => answer(202, &[], ""),
            ("DELETE", "/acr/v1/team/app/_tags/locked") => answer(
                405,
                &[],
                r#"{"errors":[{"code":"UNSUPPORTED","message":"The operation is disallowed on this registry, repository or image."}]}"#,
            ),
            other => panic!("{other:?} {may}"),
        }
    })
    .await;
    let azure = service(Kind::Acr, &fake.url, Login::Anonymous);
    let expected = [("v1".to_owned(), Some(digest("x"))), ("v2".to_owned(), Some(digest("y")))];
    assert_eq!(digests(&azure, "team/app").await, expected);
    let delete = async |name: &str| azure.delete_tag(&repo("team/app"), &tag(name), &digest("x")).await.unwrap();
    assert_eq!(delete("v1").await, Deletion::Deleted);
    let Deletion::NotSupported(reason) = delete("locked").await else { panic!("it is locked") };
    assert!(reason.contains("disallowed"), "{reason}");
}

/// As go-containerregistry's `google.Tags` reads it:
/// <https://github.com/google/go-containerregistry/blob/main/pkg/v1/google/list.go>. Would break: a second list asked for, or tags
/// without a manifest left out.
#[tokio::test(flavor = "multi_thread")]
async fn google_s_list_of_tags_has_their_manifests_beside_it() {
    let fake = Fake::start(|asked, _| {
        assert_eq!(asked.target, "/v2/project/repo/app/tags/list?n=1000");
        ok(&json!({
            "name": "project/repo/app",
            "tags": ["latest", "v1", "v2"],
            "child": [],
            "manifest": {
                digest("a").to_string(): {"mediaType": OCI_INDEX, "tag": ["latest", "v1"], "timeCreatedMs": "1", "imageSizeBytes": "1"},
                digest("b").to_string(): {"mediaType": OCI_MANIFEST, "tag": []},
                "nonsense": {"tag": ["v2"]},
            },
        }))
    })
    .await;
    let all = digests(&service(Kind::Google, &fake.url, Login::Anonymous), "project/repo/app").await;
    let a = Some(digest("a"));
    assert_eq!(all, [("latest".to_owned(), a.clone()), ("v1".to_owned(), a), ("v2".to_owned(), None)]);
    assert_eq!(fake.asked().len(), 1);
}

/// Would break: a registry without an API of its own asked for one.
#[tokio::test(flavor = "multi_thread")]
async fn other_registries_list_tags_alone() {
    let fake = Fake::start(|asked, _| match asked.target.as_str() {
        "/v2/team/app/tags/list?n=1000" => ok(&json!({"tags": ["v1"]})),
        other => panic!("{other}"),
    })
    .await;
    for kind in [Kind::Distribution, Kind::Ghcr, Kind::Gitlab, Kind::Ecr, Kind::Oci] {
        assert_eq!(digests(&service(kind, &fake.url, Login::Anonymous), "team/app").await, [("v1".to_owned(), None)], "{kind}");
    }
}

/// `DescribeNamespaces` and `CreateNamespace`: <https://cloud.tencent.com/document/api/1141/41587>; errors come with status 200. The
/// signature has Tencent's own example as its test. Would break: a push to a namespace that is not there; two workers that are in each
/// other's way; a key sent to the registry, or the registry's password to Tencent's API.
#[tokio::test(flavor = "multi_thread")]
async fn tencent_s_namespaces_are_made_once() {
    for (raced, denied) in [(false, false), (true, false), (false, true)] {
        let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::<(String, Value)>::new()));
        let asked = seen.clone();
        let app = axum::Router::new().fallback(move |request: axum::extract::Request| {
            let seen = seen.clone();
            async move {
                let (head, body) = request.into_parts();
                let header = |name: &str| head.headers[name].to_str().unwrap().to_owned();
                assert!(header("authorization").starts_with("TC3-HMAC-SHA256 Credential=AKIDexample/"));
                assert!(header("authorization").contains("/tcr/tc3_request, SignedHeaders=content-type;host;x-tc-action, Signature="));
                let settings = (header("x-tc-region"), header("x-tc-version"), header("content-type"));
                assert_eq!(settings, ("ap-guangzhou".into(), "2019-09-24".into(), "application/json; charset=utf-8".into()));
                let body: Value = serde_json::from_slice(&axum::body::to_bytes(body, 1 << 16).await.unwrap()).unwrap();
                assert_eq!(body["RegistryId"], "tcr-a1b2");
                let mut seen = seen.lock().unwrap();
                let is_there = seen.iter().any(|(action, _)| action == "CreateNamespace") && !denied;
                let action = header("x-tc-action");
                seen.push((action.clone(), body));
                let others = json!([{"Name": "team-other", "Public": false}, {"Name": "team", "Public": false}]);
                let found = &others.as_array().unwrap()[..if is_there { 2 } else { 1 }];
                ok(&json!({"Response": match action.as_str() {
                    "DescribeNamespaces" => json!({"NamespaceList": found, "TotalCount": found.len(), "RequestId": "1"}),
                    _ if denied => json!({"Error": {"Code": "UnauthorizedOperation", "Message": "you are not authorized"}, "RequestId": "1"}),
                    _ if raced => json!({"Error": {"Code": "FailedOperation", "Message": "it is there"}, "RequestId": "1"}),
                    _ => json!({"RequestId": "1"}),
                }}))
            }
        });
        let api = Fake::serve(app).await;
        let registry = Fake::start(|asked, _| panic!("{}", asked.target)).await;
        let tcr = registry_with(&registry.url, |config| {
            (config.kind, config.credentials, config.api) = (Kind::Tcr, password(), Some(api.url.parse().unwrap()));
            config.tcr = Some(Tcr {
                registry_id: "tcr-a1b2".into(),
                region: "ap-guangzhou".into(),
                secret_id: "AKIDexample".into(),
                secret_key: "hunter2".to_owned().into(),
            });
        });
        let ensured = tcr.ensure_namespace(&repo("team/app")).await;
        if denied {
            let error = ensured.unwrap_err();
            assert!(matches!(error, Error::Refused(_)) && error.is_denied(), "{error}");
            let text = error.to_string();
            assert!(text.ends_with("(allow the key tcr:CreateNamespace, or create the namespace beforehand)"), "{text}");
            assert!(!format!("{error:?} {tcr:?}").contains("hunter2"));
            continue;
        }
        ensured.unwrap();
        tcr.ensure_namespace(&repo("team/other")).await.unwrap();
        let asked = asked.lock().unwrap().clone();
        let actions: Vec<_> = asked.iter().map(|(action, _)| action.as_str()).collect();
        assert_eq!(actions[..2], ["DescribeNamespaces", "CreateNamespace"]);
        assert_eq!(actions.len(), if raced { 3 } else { 2 }, "{actions:?}");
        assert_eq!((&asked[1].1["NamespaceName"], &asked[1].1["IsPublic"]), (&json!("team"), &json!(false)));
        let error = tcr.ensure_namespace(&repo("app")).await.unwrap_err();
        assert!(error.to_string().contains("two segments"), "{error}");
    }
}
