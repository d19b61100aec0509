//! Servers that lie, never end, lead in circles, or send us elsewhere. Whatever they do, nothing gets tagged.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};
use transship_model::{Digest, Reference};
use transship_registry::{Copier, Endpoint, Error, Manifest, Options};

use crate::fixture::*;

const OPTIONS: Options = Options { overwrite: true, referrers: true };

/// A source with one image of one layer, whose content is served as `layer` says.
async fn source_with<F>(size: usize, layer: F) -> (Fake, Endpoint)
where
    F: Fn(Vec<u8>) -> Response + Clone + Send + Sync + 'static,
{
    let content = noise(1, size);
    let value = json!({"config": descriptor(OCI_CONFIG, b"{}"), "layers": [descriptor(OCI_LAYER, &content)]});
    let image = manifest(OCI_MANIFEST, value);
    let fake = Fake::start(move |asked, _| match asked.target.as_str() {
        "/v2/app/manifests/v1" => answer(200, &[("content-type", OCI_MANIFEST)], image.bytes.clone()),
        target if target.ends_with(Digest::of(b"{}").as_str()) => answer(200, &[], "{}"),
        target if target.ends_with(Digest::of(&content).as_str()) => layer(content.clone()),
        _ => answer(404, &[], ""),
    })
    .await;
    let source = endpoint("source", &fake.url, "app");
    (fake, source)
}

fn chunked(bytes: Vec<u8>) -> Response {
    answer(200, &[], Body::from_stream(stream::iter([Ok::<_, std::io::Error>(bytes)])))
}

/// Copies to a real registry, which must be left without a tag, and gives the error.
async fn refused_copy(source: &Endpoint) -> Error {
    refused_by(source, &Distribution::start()).await
}

async fn refused_by(source: &Endpoint, b: &Distribution) -> Error {
    let target = endpoint("target", &b.url, "app");
    let (tag, progress) = (reference("v1"), Counter::default());
    let copier = Copier::default();
    let copy = copier.copy(source, &tag, &target, &tag, OPTIONS, &progress);
    let error = tokio::time::timeout(Duration::from_secs(60), copy).await.expect("it ends").unwrap_err();
    assert!(matches!(error, Error::Refused(_)), "{error:?}");
    assert!(target.registry.list_tags(&target.repository, None).await.unwrap().items.is_empty());
    let (_, moved, _, lost) = progress.read();
    assert!(moved - lost <= 2, "what was moved of the layer is taken back: {moved} {lost}");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_with_another_digest_is_fetched_twice_and_refused() {
    let (fake, source) = source_with(500_000, |mut content| {
        content[400_000] ^= 1;
        answer(200, &[], content)
    })
    .await;
    let error = refused_copy(&source).await;
    let layer = Digest::of(&noise(1, 500_000));
    assert_eq!(error.to_string(), format!("source: GET blob app@{layer}: its content has another digest"));
    assert_eq!(fake.count("GET", layer.as_str()), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_too_long_too_short_or_endless_is_refused() {
    let longer = |mut content: Vec<u8>| {
        content.extend(b"more");
        content
    };
    let shorter = |mut content: Vec<u8>| {
        content.truncate(90_000);
        content
    };
    let (_fake, source) = source_with(100_000, move |content| answer(200, &[], longer(content))).await;
    assert!(refused_copy(&source).await.to_string().contains("it has 100004 bytes, and its descriptor says 100000"));
    let (_fake, source) = source_with(100_000, move |content| chunked(longer(content))).await;
    assert!(refused_copy(&source).await.to_string().contains("more than the 100000 bytes"));
    let (_fake, source) = source_with(100_000, move |content| chunked(shorter(content))).await;
    assert!(refused_copy(&source).await.to_string().contains("it ends after 90000 bytes"));
    let served = Arc::<AtomicU64>::default();
    let count = served.clone();
    let (fake, source) = source_with(100_000, move |_| {
        let count = count.clone();
        let endless = stream::repeat_with(move || {
            count.fetch_add(8192, Ordering::SeqCst);
            Ok::<_, std::io::Error>(Bytes::from_static(&[0; 8192]))
        });
        answer(200, &[], Body::from_stream(endless))
    })
    .await;
    assert!(refused_copy(&source).await.to_string().contains("more than the 100000 bytes"));
    // Twice, and what sockets hold.
    let layer = Digest::of(&noise(1, 100_000));
    assert_eq!(fake.count("GET", layer.as_str()), 2);
    assert!(served.load(Ordering::SeqCst) < 32 << 20, "{served:?}");
}

/// A source with one image, whose layer has a descriptor that is not true.
async fn source_of(layer: Value, content: impl Fn() -> Response + Clone + Send + Sync + 'static) -> (Fake, Endpoint) {
    let name = layer["digest"].as_str().unwrap().to_owned();
    let image = manifest(OCI_MANIFEST, json!({"config": descriptor(OCI_CONFIG, b"{}"), "layers": [layer]}));
    let fake = Fake::start(move |asked, _| match asked.target.as_str() {
        "/v2/app/manifests/v1" => answer(200, &[("content-type", OCI_MANIFEST)], image.bytes.clone()),
        target if target.ends_with(&name) => content(),
        target if target.contains("/blobs/") => answer(200, &[], "{}"),
        _ => answer(404, &[], ""),
    })
    .await;
    let source = endpoint("source", &fake.url, "app");
    (fake, source)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_size_that_is_not_the_layer_s_is_refused_and_the_source_is_named() {
    let b = Distribution::start();
    let content = noise(1, 1000);
    let digest = Digest::of(&content);
    for (size, plain, in_chunks) in [
        (1_u64 << 43, "it has 1000 bytes, and its descriptor says 8796093022208", "it ends after 1000 bytes"),
        (999, "it has 1000 bytes, and its descriptor says 999", "it has more than the 999 bytes"),
        (0, "it has 1000 bytes, and its descriptor says 0", "it has more than the 0 bytes"),
    ] {
        let layer = json!({"mediaType": OCI_LAYER, "digest": digest, "size": size});
        for (chunks, problem) in [(false, plain), (true, in_chunks)] {
            let content = content.clone();
            let serve = move || if chunks { chunked(content.clone()) } else { answer(200, &[], content.clone()) };
            let (_fake, source) = source_of(layer.clone(), serve).await;
            let error = refused_by(&source, &b).await.to_string();
            assert!(error.starts_with("source: GET blob app@") && error.contains(problem), "{error}");
        }
    }
    // Nothing is not what this digest is of.
    let (_fake, source) =
        source_of(json!({"mediaType": OCI_LAYER, "digest": digest, "size": 0}), || answer(200, &[], "")).await;
    let error = refused_by(&source, &b).await.to_string();
    assert_eq!(error, format!("source: GET blob app@{digest}: its content has another digest"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_manifest_is_refused_by_tag_and_below_an_index() {
    let b = Distribution::start();
    let (config, digest) = (descriptor(OCI_CONFIG, b"{}"), Digest::of(b"x"));
    let layer = |size: &str| {
        format!(r#"{{"config":{config},"layers":[{{"mediaType":"{OCI_LAYER}","digest":"{digest}","size":{size}}}]}}"#)
    };
    for (body, problem) in [
        (String::new(), "EOF"),
        ("<html>".into(), "expected value"),
        ("{}".into(), "neither an index nor an image"),
        ("[".repeat(100_000), "not a manifest"),
        (format!(r#"{{"config":{config},"layers":[],"manifests":[]}}"#), "both an index and an image"),
        (r#"{"schemaVersion":2,"layers":[]}"#.into(), "without a config"),
        (format!(r#"{{"config":{config},"config":{config}}}"#), "duplicate field"),
        (format!(r#"{{"config":{config},"layers":{{}}}}"#), "invalid type"),
        (format!(r#"{{"config":"{}"}}"#, "a".repeat(1 << 20)), "invalid type: string"),
        (layer("-1"), "-1"),
        (layer("9223372036854775808"), "not plausible"),
        (layer("1").replace("sha256:", "md5:"), "digest"),
        (layer("1").replace(digest.hex(), "../../../../x"), "digest"),
    ] {
        for below in [false, true] {
            let wrong = Manifest::new(OCI_MANIFEST, body.clone());
            let index = manifest(OCI_INDEX, json!({"manifests": [as_value(&wrong.descriptor)]}));
            let fake = Fake::start(move |asked, _| match asked.target.as_str() {
                "/v2/app/manifests/v1" if below => answer(200, &[("content-type", OCI_INDEX)], index.bytes.clone()),
                target if target.contains("/manifests/sha256:") || target.ends_with("/v1") => {
                    answer(200, &[("content-type", OCI_MANIFEST)], wrong.bytes.clone())
                }
                _ => answer(404, &[], ""),
            })
            .await;
            let error = refused_by(&endpoint("source", &fake.url, "app"), &b).await.to_string();
            assert!(
                error.starts_with("source: reading app") && error.contains(problem) && error.len() < 1000,
                "{body:.80}: {error}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_verified_whatever_the_registry_says_of_it() {
    let b = Distribution::start();
    let image = manifest(OCI_MANIFEST, json!({"config": descriptor(OCI_CONFIG, b"{}"), "layers": []}));
    let other = Digest::of(b"other");
    let index =
        manifest(OCI_INDEX, json!({"manifests": [{"mediaType": OCI_MANIFEST, "digest": other, "size": image.bytes.len()}]}));
    for (tag, below) in
        [(Some(Digest::of(b"a lie")), None), (None, None), (None, Some(other.clone())), (None, Some(Digest::of(&image.bytes)))]
    {
        let (image, index) = (image.bytes.clone(), index.bytes.clone());
        let lie = tag.is_some();
        let fake = Fake::start(move |asked, _| {
            let with = |claim: &Option<Digest>, media_type, body: &Bytes| {
                let headers =
                    [("content-type", media_type), ("docker-content-digest", claim.as_ref().map_or("", Digest::as_str))];
                answer(200, &headers[..if claim.is_some() { 2 } else { 1 }], body.clone())
            };
            match asked.target.as_str() {
                "/v2/app/manifests/v1" => with(&tag, OCI_INDEX, &index),
                target if target.contains("/manifests/sha256:") => with(&below, OCI_MANIFEST, &image),
                _ => answer(404, &[], ""),
            }
        })
        .await;
        let error = refused_by(&endpoint("source", &fake.url, "app"), &b).await.to_string();
        let place = if lie { "app:v1".to_owned() } else { format!("app@{other}") };
        assert!(error.starts_with(&format!("source: GET manifest {place}: its content has not the digest")), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_index_of_too_much_nothing_is_moved() {
    let b = Distribution::start();
    let listed = |count: usize, seed: usize| {
        let one = |n: usize| {
            format!(r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":1}}"#, Digest::of(format!("{seed} {n}").as_bytes()))
        };
        (0..count).map(one).collect::<Vec<_>>().join(",")
    };
    let index = |count: usize| Manifest::new(OCI_INDEX, format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, listed(count, 0)));
    for (index, problem) in
        [(index(100_000), "the answer has more than 4194304 bytes"), (index(25_000), "more than 2000 manifests")]
    {
        let fake = Fake::start(move |asked, _| match asked.target.as_str() {
            "/v2/app/manifests/v1" => answer(200, &[("content-type", OCI_INDEX)], index.bytes.clone()),
            _ => answer(404, &[], ""),
        })
        .await;
        let error = refused_by(&endpoint("source", &fake.url, "app"), &b).await;
        assert!(error.to_string().contains(problem), "{error}");
        assert!(fake.asked().len() < 5);
    }
    let config = descriptor(OCI_CONFIG, b"{}");
    let images: Vec<Manifest> = (1..=5)
        .map(|seed| {
            Manifest::new(
                OCI_MANIFEST,
                format!(r#"{{"config":{config},"layers":[{}]}}"#, listed(22_000, seed).replace(OCI_MANIFEST, "")),
            )
        })
        .collect();
    let index =
        manifest(OCI_INDEX, json!({"manifests": images.iter().map(|image| as_value(&image.descriptor)).collect::<Vec<_>>()}));
    let fake = Fake::start(move |asked, _| {
        let image = images.iter().find(|image| asked.target.ends_with(image.descriptor.digest.as_str()));
        match (image, asked.target.as_str()) {
            (Some(image), _) => answer(200, &[("content-type", OCI_MANIFEST)], image.bytes.clone()),
            (None, "/v2/app/manifests/v1") => answer(200, &[("content-type", OCI_INDEX)], index.bytes.clone()),
            _ => answer(404, &[], ""),
        }
    })
    .await;
    let error = refused_by(&endpoint("source", &fake.url, "app"), &b).await;
    assert!(error.to_string().contains("more than 100000 blobs"), "{error}");
    assert_eq!(fake.count("GET", "/blobs/"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_is_not_what_its_digest_says_is_refused() {
    let fake = Fake::start(|_, _| {
        answer(200, &[("content-type", OCI_MANIFEST), ("docker-content-digest", Digest::of(b"other").as_str())], "{}")
    })
    .await;
    let at = registry("x", &fake.url);
    for by in [reference("v1"), Reference::Digest(Digest::of(b"other"))] {
        let error = at.get_manifest(&repo("a"), &by).await.unwrap_err();
        assert!(matches!(error, Error::Refused(_)) && error.to_string().contains("has not the digest"), "{error}");
    }
    assert_eq!(fake.asked().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_of_more_than_4_mib_is_not_read() {
    for endless in [false, true] {
        let fake = Fake::start(move |_, _| {
            let spaces = stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 8192])));
            let body = if endless { Body::from_stream(spaces) } else { Body::from(vec![b' '; (4 << 20) + 1]) };
            answer(200, &[("content-type", OCI_MANIFEST)], body)
        })
        .await;
        let error = registry("x", &fake.url).get_manifest(&repo("a"), &reference("v1")).await.unwrap_err();
        assert_eq!(error.to_string(), "x: GET manifest a:v1: the answer has more than 4194304 bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_contains_itself_is_refused() {
    let own = Digest::of(b"whatever");
    let index = manifest(OCI_INDEX, json!({"manifests": [{"mediaType": OCI_INDEX, "digest": own, "size": 2}]}));
    let claimed = own.clone();
    let fake = Fake::start(move |asked, _| match asked.target.as_str() {
        "/v2/app/manifests/v1" => answer(200, &[("content-type", OCI_INDEX)], index.bytes.clone()),
        _ => answer(200, &[("content-type", OCI_INDEX), ("docker-content-digest", claimed.as_str())], index.bytes.clone()),
    })
    .await;
    let error = refused_copy(&endpoint("source", &fake.url, "app")).await;
    assert!(error.to_string().contains(&format!("app@{own}: its content has not the digest")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_in_indexes_end_somewhere() {
    let mut chain: Vec<Manifest> = vec![manifest(OCI_INDEX, json!({"manifests": []}))];
    for _ in 0..300 {
        let below = as_value(&chain.last().unwrap().descriptor);
        chain.push(manifest(OCI_INDEX, json!({"manifests": [below]})));
    }
    let fake = Fake::start(move |asked, _| {
        if asked.target.contains("/referrers/") {
            return answer(404, &[], "");
        }
        let found =
            chain.iter().rev().find(|m| asked.target.ends_with("/v1") || asked.target.ends_with(m.descriptor.digest.as_str()));
        found.map_or_else(|| answer(404, &[], ""), |m| answer(200, &[("content-type", OCI_INDEX)], m.bytes.clone()))
    })
    .await;
    let error = refused_copy(&endpoint("source", &fake.url, "app")).await;
    assert!(error.to_string().contains("indexes nested more than 8 deep"), "{error}");
    assert!(fake.asked().len() < 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_lead_in_a_circle_end() {
    for length in [1, 2, 5] {
        let fake = Fake::start(move |asked, _| {
            let at: usize = asked.target.split_once("last=").map_or(0, |(_, last)| last.parse().unwrap());
            let link = format!(r#"</v2/app/tags/list?last={}>; rel="next""#, at % length + 1);
            answer(200, &[("link", &link)], r#"{"name":"app","tags":["v1","not a tag"]}"#)
        })
        .await;
        let at = registry("x", &fake.url);
        let mut cursor = None;
        let error = loop {
            match at.list_tags(&repo("app"), cursor.as_ref()).await {
                Ok(page) => {
                    assert_eq!(page.items, ["v1".parse().unwrap()]);
                    cursor = Some(page.next.unwrap());
                }
                Err(error) => break error,
            }
        };
        assert!(error.to_string().contains("lead in a circle"), "{error}");
        assert!(fake.asked().len() < 20);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_elsewhere_is_not_asked_for() {
    for link in [
        "https://evil.net/v2/app/tags/list?last=a",
        "//evil.net/x",
        "/v2/other/tags/list?last=a",
        "http://127.0.0.1:1/v2/app/tags/list",
    ] {
        let fake =
            Fake::start(move |_, _| answer(200, &[("link", &format!(r#"<{link}>; rel="next""#))], r#"{"tags":[]}"#)).await;
        let error = registry("x", &fake.url).list_tags(&repo("app"), None).await.unwrap_err();
        assert!(matches!(error, Error::Refused(_)) && error.to_string().contains("leads elsewhere"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_we_are_redirected_to_does_not_see_our_credentials() {
    let content = noise(1, 1000);
    let served = content.clone();
    let storage = Fake::start(move |asked, this| match asked.target.as_str() {
        "/there?sig=s" => answer(307, &[("location", &format!("{}/back?sig=s", this.url))], ""),
        _ => answer(200, &[], served.clone()),
    })
    .await;
    let elsewhere = format!("{}/there?sig=s", storage.url);
    let fake = Fake::start(move |asked, _| match asked.authorization {
        Some(_) => answer(307, &[("location", &elsewhere)], ""),
        None => answer(401, &[("www-authenticate", "Basic realm=x")], ""),
    })
    .await;
    let at = registry_with(&fake.url, |config| config.credentials = password());
    let blob = at.get_blob(&repo("a"), &Digest::of(&content)).await.unwrap();
    assert_eq!(blob.read(1 << 20).await.unwrap(), content);
    assert_eq!(storage.asked().len(), 2);
    assert!(storage.asked().iter().all(|asked| asked.authorization.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn we_are_sent_to_no_metadata_service_and_not_for_ever() {
    for (location, problem) in [
        ("http://169.254.169.254/latest/meta-data/?sig=secret", "169.254.169.254 is a private"),
        ("http://[fd00:ec2::254]/?sig=secret", "fd00:ec2::254 is a private"),
        ("http://[::ffff:169.254.169.254]/?sig=secret", "is a private"),
        ("http://2852039166/?sig=secret", "169.254.169.254 is a private"),
        ("file:///etc/passwd?sig=secret", "it sends us to a file: URL"),
        ("http://user:secret@127.0.0.1/", "a URL with credentials"),
        ("/v2/a/manifests/v1?sig=secret", "more than 5 redirects"),
    ] {
        let fake = Fake::start(move |_, _| answer(302, &[("location", location)], "")).await;
        let error = registry("x", &fake.url).get_manifest(&repo("a"), &reference("v1")).await.unwrap_err();
        assert!(matches!(error, Error::Refused(_)), "{error:?}");
        assert!(error.to_string().contains(problem) && !error.to_string().contains("secret"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_elsewhere_goes_there_without_credentials() {
    let storage = Fake::start(|_, _| answer(202, &[], "")).await;
    let elsewhere = format!("{}/upload?sig=secret", storage.url);
    let fake = Fake::start(move |asked, _| match (asked.authorization.is_some(), asked.method.as_str()) {
        (false, _) => answer(401, &[("www-authenticate", "Basic realm=x")], ""),
        (_, "POST") => answer(202, &[("location", &elsewhere)], ""),
        (_, "PUT") => answer(201, &[], ""),
        _ => answer(404, &[], ""),
    })
    .await;
    let (_source, source) = source_with(20_000_000, |content| answer(200, &[], content)).await;
    let target = Endpoint::new(&registry_with(&fake.url, |config| config.credentials = password()), repo("app"));
    let tag = reference("v1");
    Copier::default().copy(&source, &tag, &target, &tag, OPTIONS, &()).await.unwrap();
    let asked = storage.asked();
    assert_eq!(asked.iter().filter(|asked| asked.method == "PATCH").count(), 1);
    let puts: Vec<_> = asked.iter().filter(|asked| asked.method == "PUT").collect();
    assert!(puts.iter().all(|put| put.target.starts_with("/upload?sig=secret&digest=sha256%3A")), "{puts:?}");
    assert!(asked.iter().all(|asked| asked.authorization.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_breaks_off_is_tried_again_and_then_left() {
    let fake = Fake::start(|asked, _| match asked.method.as_str() {
        "POST" => answer(202, &[("location", "/v2/app/blobs/uploads/1?_state=s")], ""),
        "PATCH" => answer(500, &[], ""),
        "PUT" => answer(201, &[], ""),
        "DELETE" => answer(204, &[], ""),
        _ => answer(404, &[], ""),
    })
    .await;
    let (_source, source) = source_with(20_000_000, |content| answer(200, &[], content)).await;
    let (target, tag) = (endpoint("target", &fake.url, "app"), reference("v1"));
    let error = Copier::default().copy(&source, &tag, &target, &tag, OPTIONS, &()).await.unwrap_err();
    assert!(error.is_retry() && error.to_string().starts_with("target: PATCH upload of blob app@sha256:"), "{error}");
    assert!(fake.count("DELETE", "/uploads/1?_state=s") >= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn schema_1_is_named() {
    let body = json!({"schemaVersion": 1, "fsLayers": [], "history": []}).to_string();
    let kind = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let fake = Fake::start(move |_, _| answer(200, &[("content-type", kind)], body.clone())).await;
    let source = endpoint("source", &fake.url, "app");
    let error = Copier::default().resolve(&source, &reference("v1")).await.unwrap_err();
    assert!(matches!(&error, Error::Schema1(_)) && error.to_string().contains("schema 1"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_size_below_zero_is_refused() {
    let layer = json!({"mediaType": OCI_LAYER, "digest": Digest::of(b"x"), "size": -1});
    let image: Value = json!({"config": descriptor(OCI_CONFIG, b"{}"), "layers": [layer]});
    let fake = Fake::start(move |_, _| answer(200, &[("content-type", OCI_MANIFEST)], image.to_string())).await;
    let error = Copier::default().resolve(&endpoint("x", &fake.url, "app"), &reference("v1")).await.unwrap_err();
    assert!(matches!(error, Error::Refused(_)) && error.to_string().contains("-1"), "{error}");
}
