//! Every kind of artifact arrives complete, and byte for byte.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Bytes, extract::State, response::Response};
use http::{HeaderMap, Method, Uri};
use serde_json::{Value, json};
use sha2::Digest as _;
use transship_model::{Digest, Reference, names::hex};
use transship_registry::{Copier, Endpoint, Error, Manifest, Moved, Options, Outcome};

use crate::{fixture::*, peculiar::*};

const OPTIONS: Options = Options { overwrite: false, referrers: true };
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// Layers that may be elsewhere.
const FOREIGN: [&str; 4] = [
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
];
const LIMIT: usize = 4 << 20;

fn pair() -> (Distribution, Distribution, Endpoint, Endpoint) {
    let (a, b) = (Distribution::start(), Distribution::start());
    let (source, target) = (endpoint("source", &a.url, "team/app"), endpoint("target", &b.url, "team/app"));
    (a, b, source, target)
}

async fn copy(source: &Endpoint, target: &Endpoint, tag: &str) -> Result<Moved, Error> {
    match Copier::default().copy(source, &reference(tag), target, &reference(tag), OPTIONS, &()).await? {
        Outcome::Copied { moved, .. } => Ok(moved),
        other => panic!("{other:?}"),
    }
}

async fn have(at: &Endpoint, blobs: &[&[u8]]) {
    for blob in blobs {
        at.registry.push_blob(&at.repository, blob.to_vec().into()).await.unwrap();
    }
}

/// The manifest at the target is the one at the source, byte for byte and by its type, and so is all that it refers to.
async fn assert_same(source: &Endpoint, target: &Endpoint, by: &Reference) {
    let mut pending = vec![by.clone()];
    while let Some(by) = pending.pop() {
        let read = async |at: &Endpoint| at.registry.get_manifest(&at.repository, &by).await.unwrap();
        let (theirs, ours) = (read(source).await, read(target).await.unwrap_or_else(|| panic!("{by} is not at the target")));
        assert_eq!(theirs.as_ref(), Some(&ours));
        let value: Value = serde_json::from_slice(&ours.bytes).unwrap();
        let named = |field: &str| match value[field].clone() {
            Value::Array(all) => all,
            Value::Null => Vec::new(),
            one => vec![one],
        };
        pending.extend(named("manifests").iter().map(|child| reference(child["digest"].as_str().unwrap())));
        for blob in named("config").into_iter().chain(named("layers")) {
            let digest: Digest = blob["digest"].as_str().unwrap().parse().unwrap();
            if FOREIGN.contains(&blob["mediaType"].as_str().unwrap()) {
                assert!(!target.registry.has_blob(&target.repository, &digest).await.unwrap(), "a foreign layer is there");
                continue;
            }
            let content = target.registry.get_blob(&target.repository, &digest).await.unwrap().read(1 << 20).await.unwrap();
            assert_eq!(content.len() as u64, blob["size"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_image_and_artifact_arrives_byte_for_byte() {
    let (a, b) = (Distribution::with_foreign_layers(), Distribution::with_foreign_layers());
    let (source, target) = (endpoint("source", &a.url, "team/app"), endpoint("target", &b.url, "team/app"));
    let layers: Vec<Vec<u8>> = (0..4).map(|seed| noise(seed, 3000)).collect();
    have(&source, &[b"{}", b"", &layers[0], &layers[1], &layers[2], &layers[3]]).await;
    let config = descriptor(OCI_CONFIG, b"{}");
    let estargz = json!({"containerd.io/snapshot/stargz/toc.digest": Digest::of(b"toc"), "io.containers.zstd-chunked.manifest-checksum": "x"});
    let with = |media_type: &str, bytes: &[u8], more: Value| {
        let mut layer = descriptor(media_type, bytes);
        layer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        layer
    };
    let urls = json!({"urls": ["https://example.com/layer"]});
    let mut foreign: Vec<Value> = FOREIGN.iter().map(|kind| with(kind, kind.as_bytes(), urls.clone())).collect();
    foreign.push(descriptor(OCI_LAYER, &layers[1]));
    let zstd = "application/vnd.oci.image.layer.v1.tar+zstd";
    let subject = manifest(OCI_MANIFEST, json!({"config": config, "layers": []})).descriptor;
    let oci = [
        (
            "zstd",
            json!({"config": config, "layers": [descriptor(zstd, &layers[0]), descriptor("application/vnd.oci.image.layer.v1.tar", &layers[1])]}),
        ),
        ("estargz", json!({"config": config, "layers": [with(OCI_LAYER, &layers[0], json!({"annotations": estargz}))]})),
        ("foreign", json!({"config": config, "layers": foreign})),
        (
            "artifact",
            json!({"config": descriptor(EMPTY, b"{}"), "layers": [descriptor(EMPTY, b"{}")], "artifactType": "application/x-thing",
            "subject": as_value(&subject), "annotations": {"org.example.a": "ä\u{1f600}\n"}}),
        ),
        ("empty-layer", json!({"config": config, "layers": [descriptor(OCI_LAYER, b"")]})),
        ("empty-config", json!({"config": descriptor("application/x-config", b""), "layers": []})),
        ("twice", json!({"config": config, "layers": [descriptor(OCI_LAYER, &layers[2]), descriptor(OCI_LAYER, &layers[2])]})),
        (
            "config-is-layer",
            json!({"config": descriptor(OCI_CONFIG, &layers[3]), "layers": [descriptor(OCI_LAYER, &layers[3])]}),
        ),
    ];
    let mut children = Vec::new();
    for (tag, value) in oci {
        children.push(put(&source, Some(tag), manifest(OCI_MANIFEST, value)).await.descriptor);
    }
    let docker = json!({"config": descriptor(DOCKER_CONFIG, b"{}"), "layers": [descriptor(DOCKER_LAYER, &layers[0])]});
    let docker = put(&source, Some("docker"), manifest(DOCKER_MANIFEST, docker)).await;
    let mut listed = as_value(&docker.descriptor);
    listed["platform"] = json!({"architecture": "arm", "os": "linux", "variant": "v7"});
    put(&source, Some("docker-list"), manifest(DOCKER_LIST, json!({"manifests": [listed]}))).await;
    let below = manifest(OCI_INDEX, json!({"manifests": children.iter().map(as_value).collect::<Vec<_>>()}));
    let below = put(&source, None, below).await;
    let nested =
        json!({"manifests": [as_value(&below.descriptor), as_value(&docker.descriptor)], "artifactType": "application/x-set"});
    put(&source, Some("nested"), manifest(OCI_INDEX, nested)).await;

    for tag in [
        "zstd",
        "estargz",
        "foreign",
        "artifact",
        "empty-layer",
        "empty-config",
        "twice",
        "config-is-layer",
        "docker",
        "docker-list",
    ] {
        copy(&source, &target, tag).await.unwrap();
        assert_same(&source, &target, &reference(tag)).await;
    }
    // From nothing, by one who knows nothing.
    let c = Distribution::with_foreign_layers();
    let target = endpoint("target", &c.url, "other");
    let moved = copy(&source, &target, "nested").await.unwrap();
    assert_eq!((moved.blobs_copied, moved.manifests), (6, 11));
    assert_same(&source, &target, &reference("nested")).await;
}

/// Would break: another digest, for whoever parses a manifest and writes it anew.
#[tokio::test(flavor = "multi_thread")]
async fn white_space_order_numbers_and_unknown_fields_of_a_manifest_stay_as_they_are() {
    let (_a, _b, source, target) = pair();
    have(&source, &[b"{}"]).await;
    let digest = Digest::of(b"{}");
    let text = format!(
        "\n\t {{\"zzz\" : 1.0e2,\r\n  \"layers\":[ ] ,\"annotations\":{{\"b\":\"\\u00e4\\/\",\"a\":\"\u{e4}\"}},\"big\":12345678901234567890123,\
         \"config\" :{{\"size\":2, \"new\":{{\"x\":[null,1E400]}},\"digest\":\"{digest}\",\"mediaType\":\"{OCI_CONFIG}\"}},\
         \"schemaVersion\":2,\"mediaType\":\"{OCI_MANIFEST}\",\"aaa\":[[[]]]}}\n\n"
    );
    // docker-registry reads numbers as Go does: what is out of range for a float is no JSON there.
    let text = text.replace("1E400", "1E300");
    let odd = put(&source, Some("odd"), Manifest::new(OCI_MANIFEST, text.clone())).await;
    let index = format!(
        "{{ \"manifests\" : [ {{\"size\":{},\"digest\":\"{}\",\"mediaType\":\"{OCI_MANIFEST}\",\"x\":0.10}} ],\n\"schemaVersion\":2, \
         \"mediaType\":\"{OCI_INDEX}\"}}",
        text.len(),
        odd.descriptor.digest
    );
    put(&source, Some("index"), Manifest::new(OCI_INDEX, index.clone())).await;
    for (tag, text) in [("odd", text), ("index", index)] {
        copy(&source, &target, tag).await.unwrap();
        assert_same(&source, &target, &reference(tag)).await;
        let there = target.registry.get_manifest(&target.repository, &reference(tag)).await.unwrap().unwrap();
        assert_eq!(there.bytes, text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_schema_1_is_skipped_signed_or_not_and_in_an_index_too() {
    let (_a, _b, source, target) = pair();
    let schema1 = |signed: bool| {
        let mut value = json!({"schemaVersion": 1, "name": "team/app", "tag": "v1", "fsLayers": [{"blobSum": Digest::of(b"x")}], "history": []});
        if signed {
            value["signatures"] = json!([{"signature": "x"}]);
        }
        value.to_string()
    };
    for (signed, media_type) in [
        (true, "application/vnd.docker.distribution.manifest.v1+prettyjws"),
        (false, "application/vnd.docker.distribution.manifest.v1+json"),
        (true, "application/json"),
    ] {
        let old = Manifest::new(media_type, schema1(signed));
        let index = manifest(OCI_INDEX, json!({"manifests": [as_value(&old.descriptor)]}));
        let served = Fake::start(move |asked, _| match asked.target.rsplit('/').next().unwrap() {
            "index" => answer(200, &[("content-type", OCI_INDEX)], index.bytes.clone()),
            _ => answer(200, &[("content-type", media_type)], old.bytes.clone()),
        })
        .await;
        let old = endpoint("old", &served.url, "team/app");
        for tag in ["v1", "index"] {
            // Where no registry says what it is, an index has to.
            if media_type == "application/json" && tag == "index" {
                continue;
            }
            let error = copy(&old, &target, tag).await.unwrap_err();
            assert!(matches!(error, Error::Schema1(_)), "{error:?}");
            assert!(error.to_string().contains("Docker schema 1"), "{error}");
        }
    }
    for at in [source, target] {
        assert!(at.registry.list_tags(&at.repository, None).await.unwrap().items.is_empty());
    }
}

/// A manifest of so many bytes.
fn of_size(size: usize, extra: Value) -> Manifest {
    let mut value = extra;
    value["config"] = descriptor(OCI_CONFIG, b"{}");
    value["layers"] = json!([]);
    let text = manifest(OCI_MANIFEST, value).bytes;
    let mut padded = text.to_vec();
    padded.resize(size, b' ');
    Manifest::new(OCI_MANIFEST, padded)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_of_4_mib_arrives_by_tag_in_an_index_and_as_a_referrer() {
    let (_a, _b, source, target) = pair();
    have(&source, &[b"{}"]).await;
    let image = push_image(&source, Some("v1"), 1).await;
    let large = of_size(LIMIT, json!({"annotations": {"a": "child"}}));
    let referrer = of_size(LIMIT, json!({"subject": as_value(&image.descriptor), "artifactType": "application/x-large"}));
    for (tag, manifest) in [(Some("large"), &large), (None, &referrer)] {
        put(&source, tag, manifest.clone()).await;
    }
    put(&source, Some("index"), manifest(OCI_INDEX, json!({"manifests": [as_value(&large.descriptor)]}))).await;
    let listing = json!({"manifests": [as_value(&referrer.descriptor)]});
    put(&source, Some(image.descriptor.digest.as_tag("").as_str()), manifest(OCI_INDEX, listing)).await;
    for tag in ["large", "index", "v1"] {
        copy(&source, &target, tag).await.unwrap();
        assert_same(&source, &target, &reference(tag)).await;
    }
    assert_same(&source, &target, &Reference::Digest(referrer.descriptor.digest)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_of_one_byte_more_is_refused_by_tag_in_an_index_and_as_a_referrer() {
    let b = Distribution::start();
    let target = endpoint("target", &b.url, "team/app");
    let image = manifest(OCI_MANIFEST, json!({"config": descriptor(OCI_CONFIG, b"{}"), "layers": []}));
    let large = of_size(LIMIT + 1, json!({"subject": as_value(&image.descriptor)}));
    let listing = manifest(OCI_INDEX, json!({"manifests": [as_value(&large.descriptor)]}));
    let (name, digest) = (image.descriptor.digest.clone(), large.descriptor.digest.clone());
    let nothing = manifest(OCI_INDEX, json!({"manifests": []}));
    let source = Fake::start(move |asked, _| {
        let found = match asked.target.strip_prefix("/v2/team/app/").unwrap() {
            "manifests/large" => &large,
            "manifests/index" => &listing,
            "manifests/v1" => &image,
            path if path.starts_with("referrers/") && path.ends_with(name.as_str()) => &listing,
            path if path.starts_with("referrers/") => &nothing,
            path if path.starts_with("manifests/") && path.ends_with(large.descriptor.digest.as_str()) => &large,
            path if path.starts_with("manifests/") && path.ends_with(name.as_str()) => &image,
            path if path.starts_with("blobs/") => return answer(200, &[], "{}"),
            _ => return answer(404, &[], ""),
        };
        answer(200, &[("content-type", &found.descriptor.media_type)], found.bytes.clone())
    })
    .await;
    let source = endpoint("source", &source.url, "team/app");
    for (tag, place) in
        [("large", "team/app:large".to_owned()), ("index", format!("team/app@{digest}")), ("v1", format!("team/app@{digest}"))]
    {
        let error = copy(&source, &target, tag).await.unwrap_err();
        assert!(matches!(error, Error::Refused(_)), "{error:?}");
        assert_eq!(error.to_string(), format!("source: GET manifest {place}: the answer has more than 4194304 bytes"));
    }
    // What it is attached to is whole without it.
    assert_eq!(target.registry.list_tags(&target.repository, None).await.unwrap().items, ["v1".parse().unwrap()]);
}

/// A registry in memory that takes and checks whatever digest it is given: neither docker-registry nor ferro-oci-server does.
#[derive(Clone, Default)]
struct AnyDigest(Arc<Mutex<HashMap<String, (String, Bytes)>>>);

impl AnyDigest {
    async fn start() -> (Fake, Self) {
        let this = Self::default();
        let app = Router::new().fallback(Self::answer).with_state(this.clone());
        (Fake::serve(app).await, this)
    }

    fn has(&self, what: &str, bytes: impl Into<Bytes>, media_type: &str) {
        self.0.lock().unwrap().insert(what.into(), (media_type.into(), bytes.into()));
    }

    async fn answer(State(this): State<Self>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
        let path = uri.path().strip_prefix("/v2/app/").unwrap_or_default();
        let right = |digest: &str, bytes: &[u8]| match digest.split_once(':') {
            Some(("sha512", hex)) => hex == sha512(bytes).hex(),
            Some(_) => digest == Digest::of(bytes).as_str(),
            None => true,
        };
        match method.as_str() {
            "POST" => answer(202, &[("location", "/v2/app/blobs/uploads/1")], ""),
            "PUT" => {
                let query = uri.query().unwrap_or_default().replace("%3A", ":");
                let name = query.strip_prefix("digest=").map_or_else(|| path.to_owned(), |digest| format!("blobs/{digest}"));
                if !right(name.rsplit('/').next().unwrap(), &body) {
                    return answer(400, &[], r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#);
                }
                let media_type = headers.get("content-type").unwrap().to_str().unwrap();
                this.has(&name, body, media_type);
                answer(201, &[], "")
            }
            _ => match this.0.lock().unwrap().get(path) {
                Some((media_type, bytes)) => answer(200, &[("content-type", media_type)], bytes.clone()),
                None => answer(404, &[], ""),
            },
        }
    }
}

fn sha512(bytes: &[u8]) -> Digest {
    format!("sha512:{}", hex(&sha2::Sha512::digest(bytes))).parse().unwrap()
}

/// A source of an index whose child, and its config, and one of its layers, have sha512 digests.
async fn sha512_source(layer: &[u8]) -> (Fake, AnyDigest, Endpoint, Digest) {
    let (fake, holds) = AnyDigest::start().await;
    let of = |media_type: &str, bytes: &[u8]| json!({"mediaType": media_type, "digest": sha512(bytes), "size": bytes.len()});
    let value = json!({"config": of(OCI_CONFIG, b"{}"), "layers": [of(OCI_LAYER, layer), descriptor(OCI_LAYER, b"other"), descriptor(OCI_LAYER, b"{}")]});
    let image = manifest(OCI_MANIFEST, value);
    let digest = sha512(&image.bytes);
    let index = manifest(OCI_INDEX, json!({"manifests": [of(OCI_MANIFEST, &image.bytes)]}));
    for (digest, bytes) in [
        (sha512(b"{}"), b"{}".as_slice()),
        (Digest::of(b"{}"), b"{}"),
        (sha512(layer), layer),
        (Digest::of(b"other"), b"other"),
    ] {
        holds.has(&format!("blobs/{digest}"), bytes.to_vec(), "");
    }
    holds.has("manifests/image", image.bytes.clone(), OCI_MANIFEST);
    holds.has(&format!("manifests/{digest}"), image.bytes, OCI_MANIFEST);
    holds.has("manifests/v1", index.bytes, OCI_INDEX);
    let source = endpoint("source", &fake.url, "app");
    (fake, holds, source, digest)
}

#[tokio::test(flavor = "multi_thread")]
async fn sha512_blobs_configs_and_children_are_verified_and_arrive() {
    let layer = noise(1, 5000);
    let (_source, _, source, child) = sha512_source(&layer).await;
    let (target, holds) = AnyDigest::start().await;
    let target = endpoint("target", &target.url, "app");
    let moved = copy(&source, &target, "v1").await.unwrap();
    // Content under two digests is two blobs.
    assert_eq!((moved.blobs_copied, moved.manifests), (4, 2));
    let expected = [
        "manifests/v1".into(),
        format!("manifests/{child}"),
        format!("blobs/{}", sha512(&layer)),
        format!("blobs/{}", sha512(b"{}")),
    ];
    let there = holds.0.lock().unwrap().clone();
    assert!(expected.iter().all(|name| there.contains_key(name)), "{:?}", there.keys());
    // By its digest itself.
    let by = Reference::Digest(child);
    let outcome = Copier::default().copy(&source, &by, &target, &by, OPTIONS, &()).await.unwrap();
    assert!(matches!(outcome, Outcome::Unchanged { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_has_not_its_sha512_digest_is_refused() {
    let layer = noise(1, 5000);
    let (_a, holds, source, child) = sha512_source(&layer).await;
    let (target, there) = AnyDigest::start().await;
    let target = endpoint("target", &target.url, "app");
    for (name, problem) in [
        (format!("blobs/{}", sha512(&layer)), "its content has another digest".to_owned()),
        (format!("manifests/{child}"), format!("its content has not the digest {child}")),
    ] {
        let honest = holds.0.lock().unwrap()[&name].clone();
        let mut changed = honest.1.to_vec();
        *changed.last_mut().unwrap() ^= 1;
        holds.has(&name, changed, &honest.0);
        let error = copy(&source, &target, "v1").await.unwrap_err();
        assert!(matches!(error, Error::Refused(_)) && error.to_string().contains(&problem), "{error}");
        holds.has(&name, honest.1, &honest.0);
    }
    assert!(!there.0.lock().unwrap().contains_key("manifests/v1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_registry_gets_sha512_blobs() {
    let (_source, _, source, _) = sha512_source(&noise(1, 5000)).await;
    let b = Distribution::start();
    let target = endpoint("target", &b.url, "app");
    copy(&source, &target, "image").await.unwrap();
    assert_same(&source, &target, &reference("image")).await;
}

/// What refers to an image, in a registry whose API lists it in pages.
async fn paged(
    listing: impl Fn(&str, &Seen) -> Option<(Vec<Value>, Option<String>)> + Send + Sync + 'static,
) -> (Fake, Peculiar) {
    let ferro = Fake::ferro().await;
    let proxy = Peculiar::with(&ferro.url, move |seen| {
        let listed = seen.target.split_once("/referrers/").and_then(|(_, subject)| listing(subject, seen));
        let Some((manifests, next)) = listed else { return Deed::Pass };
        let link = next.map(|next| format!(r#"<{next}>; rel="next""#));
        let headers: Vec<(&str, &str)> = link.iter().map(|link| ("link", link.as_str())).collect();
        Deed::Answer(answer(200, &headers, manifest(OCI_INDEX, json!({"manifests": manifests})).bytes))
    })
    .await;
    (ferro, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_on_all_pages_follow() {
    let listed: Arc<Mutex<Vec<Value>>> = Arc::default();
    let pages = listed.clone();
    let (_ferro, proxy) = paged(move |subject, seen| {
        let pages = pages.lock().unwrap();
        let path = seen.target.split('?').next().unwrap();
        let page: usize = subject.split_once("page=").map_or(0, |(_, page)| page.parse().unwrap());
        let first = pages.first()?["subject"].as_str()?.to_owned();
        let next = (page + 1 < pages.len()).then(|| format!("{path}?page={}", page + 1));
        subject.starts_with(&first).then(|| (vec![pages[page]["descriptor"].clone()], next))
    })
    .await;
    let source = endpoint("source", &proxy.url, "app");
    let image = push_image(&source, Some("v1"), 1).await;
    for n in 0..5 {
        let value = json!({"subject": as_value(&image.descriptor), "artifactType": "application/x-sig"});
        let sbom = push(&source, None, (EMPTY, b"{}"), &[("text/plain", format!("{n}").as_bytes())], value).await;
        listed.lock().unwrap().push(json!({"subject": image.descriptor.digest, "descriptor": as_value(&sbom.descriptor)}));
    }
    let there = Fake::ferro().await;
    let target = endpoint("target", &there.url, "app");
    copy(&source, &target, "v1").await.unwrap();
    let there = target.registry.referrers(&target.repository, &image.descriptor.digest).await.unwrap();
    assert_eq!(there.len(), 5);
}

/// Would break: an engine that goes round for ever where an attacker's API lists two manifests as referrers of each other, which
/// nobody can push.
#[tokio::test(flavor = "multi_thread")]
async fn referrers_that_a_registry_says_refer_to_each_other_end() {
    let listed: Arc<Mutex<HashMap<String, Value>>> = Arc::default();
    let circle = listed.clone();
    let (_ferro, proxy) =
        paged(move |subject, _| circle.lock().unwrap().get(subject).map(|referrer| (vec![referrer.clone()], None))).await;
    let source = endpoint("source", &proxy.url, "app");
    let image = push_image(&source, Some("v1"), 1).await;
    let value = json!({"subject": as_value(&image.descriptor)});
    let sbom = push(&source, None, (EMPTY, b"{}"), &[("text/plain", b"sbom")], value).await;
    for (subject, referrer) in [(&image, &sbom), (&sbom, &image)] {
        listed.lock().unwrap().insert(subject.descriptor.digest.to_string(), as_value(&referrer.descriptor));
    }
    let b = Distribution::start();
    let target = endpoint("target", &b.url, "app");
    let copying = copy(&source, &target, "v1");
    tokio::time::timeout(Duration::from_secs(60), copying).await.expect("it ends").unwrap();
    assert!(proxy.count("GET", "/referrers/") <= 4, "{:?}", proxy.seen());
    // What does not refer to a manifest, whatever a registry says, is not listed.
    assert!(target.registry.referrers(&target.repository, &sbom.descriptor.digest).await.unwrap().is_empty());
    let outcome = Copier::default().copy(&source, &reference("v1"), &target, &reference("v1"), OPTIONS, &()).await.unwrap();
    assert!(matches!(outcome, Outcome::Unchanged { ref attached, .. } if attached.manifests == 0), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_referrers_list_that_leads_elsewhere_in_a_circle_or_on_for_ever_is_refused() {
    let digest = Digest::of(b"x");
    let one = json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": 1});
    for (link, problem) in [
        ("https://evil.net/v2/app/referrers/x", "the Link to the next page leads elsewhere"),
        ("/v2/other/referrers/x", "the Link to the next page leads elsewhere"),
        ("?", "its pages lead in a circle"),
        ("?other", "its pages lead in a circle"),
        ("?on", "more than 100 pages"),
    ] {
        let one = one.clone();
        let fake = Fake::start(move |asked, _| {
            let path = asked.target.split('?').next().unwrap();
            let next = match link {
                "?" => path.to_owned(),
                "?other" if asked.target.ends_with("page=2") => format!("{path}?page=1"),
                "?other" => format!("{path}?page=2"),
                "?on" => {
                    format!("{}1", if asked.target.contains('?') { asked.target.clone() } else { format!("{path}?page=") })
                }
                elsewhere => elsewhere.to_owned(),
            };
            let body = json!({"schemaVersion": 2, "manifests": [one]}).to_string();
            answer(200, &[("content-type", OCI_INDEX), ("link", &format!(r#"<{next}>; rel="next""#))], body)
        })
        .await;
        let error = registry("x", &fake.url).referrers(&repo("app"), &digest).await.unwrap_err();
        assert!(matches!(error, Error::Refused(_)) && error.to_string().contains(problem), "{link}: {error}");
        assert!(fake.asked().len() <= 100);
    }
    let many = {
        let mut text = String::from(r#"{"manifests":["#);
        for n in 0..20_000 {
            write!(text, r#"{{"digest":"{}","size":1}},"#, Digest::of(format!("{n}").as_bytes())).unwrap();
        }
        text.pop();
        text + "]}"
    };
    let fake = Fake::start(move |_, _| answer(200, &[("content-type", OCI_INDEX)], many.clone())).await;
    let error = registry("x", &fake.url).referrers(&repo("app"), &digest).await.unwrap_err();
    assert!(error.to_string().contains("more than 10000 referrers"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_referrers_tag_has_each_referrer_once_with_its_type_and_its_annotations() {
    let b = Distribution::start();
    let target = endpoint("target", &b.url, "app");
    let image = push_image(&target, Some("v1"), 1).await;
    let source = {
        let ferro = Fake::ferro().await;
        endpoint("source", &ferro.url, "app")
    };
    push_image(&source, Some("v1"), 1).await;
    let mut referrers = Vec::new();
    for n in 0..8 {
        let mut value = json!({"subject": as_value(&image.descriptor), "annotations": {"n": n.to_string()}});
        if n == 0 {
            value["artifactType"] = json!("application/x-own");
        }
        let layer = format!("{n}");
        let config = format!(r#"{{"n":{n}}}"#);
        let layers = [("text/plain", layer.as_bytes())];
        referrers
            .push(push(&source, Some(&format!("r{n}")), ("application/x-config", config.as_bytes()), &layers, value).await);
    }
    // Each by itself, all at the same time, and then all again by another name.
    let copier = Arc::new(Copier::default());
    let overwrite = Options { overwrite: true, referrers: true };
    for name in ["r", "again"] {
        let copies = (0..8).map(|n| {
            let (copier, source, target) = (copier.clone(), source.clone(), target.clone());
            let (from, to) = (reference(&format!("r{n}")), reference(&format!("{name}{n}")));
            tokio::spawn(async move { copier.copy(&source, &from, &target, &to, overwrite, &()).await.unwrap() })
        });
        for copy in copies.collect::<Vec<_>>() {
            copy.await.unwrap();
        }
        // None has been lost to another that was listed at the same moment.
        assert_eq!(target.registry.referrers(&target.repository, &image.descriptor.digest).await.unwrap().len(), 8);
        copier.copy(&source, &reference("v1"), &target, &reference("v1"), overwrite, &()).await.unwrap();
    }
    let tag = Reference::Tag(image.descriptor.digest.as_tag(""));
    let listing = target.registry.get_manifest(&target.repository, &tag).await.unwrap().unwrap();
    assert_eq!(listing.descriptor.media_type, OCI_INDEX);
    let value: Value = serde_json::from_slice(&listing.bytes).unwrap();
    assert_eq!((&value["schemaVersion"], &value["mediaType"]), (&json!(2), &json!(OCI_INDEX)));
    let listed = value["manifests"].as_array().unwrap();
    assert_eq!(listed.len(), 8);
    for (n, referrer) in referrers.iter().enumerate() {
        let mut expected = as_value(&referrer.descriptor);
        expected["artifactType"] = json!(if n == 0 { "application/x-own" } else { "application/x-config" });
        expected["annotations"] = json!({"n": n.to_string()});
        assert!(listed.contains(&expected), "{expected} in {listed:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_referrers_tag_of_a_sha512_subject_is_cut_as_the_specification_says() {
    let (_ferro, source) = {
        let ferro = Fake::ferro().await;
        let at = endpoint("source", &ferro.url, "app");
        (ferro, at)
    };
    let subject = sha512(b"subject");
    let value = json!({"subject": {"mediaType": OCI_MANIFEST, "digest": subject, "size": 7}});
    push(&source, Some("r"), (EMPTY, b"{}"), &[("text/plain", b"r")], value).await;
    let b = Distribution::start();
    let target = endpoint("target", &b.url, "app");
    copy(&source, &target, "r").await.unwrap();
    let tags = target.registry.list_tags(&target.repository, None).await.unwrap().items;
    let expected = format!("sha512-{}", &subject.hex()[..64]);
    assert!(tags.iter().any(|tag| tag.as_str() == expected), "{tags:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_attached_follows_its_subject() {
    let (_ferro, source) = {
        let ferro = Fake::ferro().await;
        let at = endpoint("source", &ferro.url, "app");
        (ferro, at)
    };
    let image = push_image(&source, Some("v1"), 1).await;
    let tags = [".sig", ".att", ".sbom"].map(|suffix| image.descriptor.digest.as_tag(suffix).to_string());
    for tag in &tags {
        push(&source, Some(tag), (OCI_CONFIG, b"{}"), &[("application/x-signature", tag.as_bytes())], json!({})).await;
    }
    let value = json!({"subject": as_value(&image.descriptor)});
    let sbom = push(&source, None, (EMPTY, b"{}"), &[("text/plain", b"sbom")], value).await;
    let b = Distribution::start();
    let proxy = Peculiar::with(&b.url, |_| Deed::Pass).await;
    let target = endpoint("target", &proxy.url, "app");
    copy(&source, &target, "v1").await.unwrap();
    for tag in &tags {
        assert_same(&source, &target, &reference(tag)).await;
    }
    let put: Vec<String> = proxy
        .seen()
        .into_iter()
        .filter(|seen| seen.is("PUT", "/manifests/"))
        .map(|seen| seen.target.rsplit('/').next().unwrap().to_owned())
        .collect();
    let at = |name: &str| put.iter().position(|put| put == name).unwrap_or_else(|| panic!("{name} is not among {put:?}"));
    assert_eq!((at("v1"), put.len()), (0, 6));
    for tag in &tags {
        at(tag);
    }
    // A referrer is there before it is listed.
    assert!(at(sbom.descriptor.digest.as_str()) < at(image.descriptor.digest.as_tag("").as_str()));
}
