//! All tags of a repository, by hand: what is asked of the registries, and what becomes of each tag.

use std::collections::BTreeMap;

use transship_model::Tag;
use transship_registry::{Copier, Endpoint, Options, Outcome, Registry};
use transship_tests::{Action, DockerRegistry, Image, Index, Proxy, artifact, assert_same, cosign_signature, referrer};

use crate::fixture::{registry, repo};

const PLAIN: Options = Options { overwrite: false, referrers: true };

/// Two registries, each behind a proxy that counts.
struct World {
    a: DockerRegistry,
    b: DockerRegistry,
    source: Proxy,
    target: Proxy,
}

impl World {
    async fn new() -> Self {
        let (a, b) = (DockerRegistry::start().await, DockerRegistry::start().await);
        let (source, target) = (Proxy::passing(a.url()).await, Proxy::passing(b.url()).await);
        Self { a, b, source, target }
    }

    /// What becomes of each tag, in a process that knows nothing.
    async fn copy_all(&self, options: Options) -> BTreeMap<String, Result<Outcome, String>> {
        let at = |registry: Registry| Endpoint::new(&registry, repo("team/app"));
        let (source, target) = (at(registry("source", self.source.url())), at(registry("target", self.target.url())));
        let mut tagged = BTreeMap::new();
        let tell = |(tag, outcome): (Tag, Result<Outcome, _>)| {
            tagged.insert(tag.to_string(), outcome.map_err(|error: transship_registry::Error| error.to_string()));
        };
        Copier::default().copy_all(&source, &target, options, &(), tell).await.unwrap();
        tagged
    }

    async fn assert_same(&self, reference: impl std::fmt::Display) {
        let reference = reference.to_string();
        assert_same(&self.a.at("team/app", &reference), &self.b.at("team/app", &reference)).await;
    }

    fn requests(&self) -> (usize, usize) {
        (self.source.exchanges().len(), self.target.exchanges().len())
    }
}

fn is_copied(outcome: &Result<Outcome, String>) -> bool {
    matches!(outcome, Ok(Outcome::Copied { .. }))
}

/// Would break: tags one after the other, blobs that are known to be there asked for again, a shared layer that is sent for each tag.
#[tokio::test(flavor = "multi_thread")]
async fn many_tags_cost_few_requests_and_again_one_each() {
    const TAGS: usize = 40;
    let world = World::new().await;
    let mut size = 0;
    for n in 0..TAGS {
        let image = Image::random(n as u64).base(99, 2, 1 << 20).layers(1, 4 << 10).build();
        size += image.size() as u64 + image.root().bytes.len() as u64 - if n == 0 { 0 } else { 2 << 20 };
        image.push(&world.a.at("team/app", format!("v{n}"))).await;
    }
    let tagged = world.copy_all(PLAIN).await;
    assert_eq!((tagged.len(), tagged.values().filter(|outcome| is_copied(outcome)).count()), (TAGS, TAGS), "{tagged:?}");
    for n in 0..TAGS {
        world.assert_same(format!("v{n}")).await;
    }
    let (source, target) = world.requests();
    // Of each tag: manifest, config, layer. Besides: the list, the two layers that all have, and whether there is a referrers API.
    assert!(source <= 3 * TAGS + 4, "{source} requests to the source");
    // Of each tag: a POST and a PUT for config and layer, the manifest. Besides: the list, the two layers.
    // On a busy machine the list is not fresh any more when a tag is about to be set, and the tag is looked at once more.
    let late = world.target.count("HEAD", "/manifests/v");
    assert!(
        late <= TAGS && target - late <= 5 * TAGS + 1 + 2 * 4,
        "{target} requests to the target, {late} of them late looks"
    );
    let uploaded: u64 = world.target.exchanges().iter().map(|exchange| exchange.uploaded).sum();
    assert!(uploaded < size + (100 << 10), "{uploaded} bytes for {size}");

    world.source.forget();
    world.target.forget();
    let tagged = world.copy_all(PLAIN).await;
    assert!(tagged.values().all(|outcome| matches!(outcome, Ok(Outcome::Unchanged { .. }))), "{tagged:?}");
    let heads = |proxy: &Proxy| proxy.count("HEAD", "/manifests/v");
    assert_eq!((heads(&world.source), heads(&world.target)), (TAGS, TAGS));
    let (source, target) = world.requests();
    assert!(source <= TAGS + 2 && target <= TAGS + 1, "{source} and {target} requests where nothing is to be done");
}

/// Would break: signatures left behind because the list spares looking for them, or copied as if they were tags.
#[tokio::test(flavor = "multi_thread")]
async fn what_refers_to_a_tag_follows_it_whatever_it_is() {
    let world = World::new().await;
    let at = |reference: String| world.a.at("team/app", reference);
    let (signed, index) = (Image::random(1).layers(1, 1000).build(), Index::random(2).platforms(2).layers(1, 1000).build());
    signed.push(&at("v1".into())).await;
    index.push(&at("v2".into())).await;
    // As `cosign sign --recursive` does: each platform for itself.
    let platform = &index.manifests()[0].digest;
    let mut signatures = Vec::new();
    for (subject, of) in [(signed.digest(), &signed), (platform, &index)] {
        let signature = cosign_signature(of);
        let tag = subject.as_tag(".sig").to_string();
        signature.push(&at(tag.clone())).await;
        signatures.push(tag);
    }
    let sbom = referrer(3, &signed, "application/spdx+json");
    sbom.push_by_digest(&at("v1".into())).await;
    let listed = transship_tests::referrers_index(std::slice::from_ref(&sbom));
    listed.push(&at(signed.digest().as_tag("").to_string())).await;

    let without = world.copy_all(Options { referrers: false, ..PLAIN }).await;
    assert_eq!(without.keys().collect::<Vec<_>>(), ["v1", "v2"]);
    assert_eq!(world.b.client().tags("team/app").await, ["v1", "v2"], "nothing that refers to them was to come");

    let with = world.copy_all(PLAIN).await;
    let attached = |outcome: &Result<Outcome, String>| match outcome {
        Ok(Outcome::Unchanged { attached, .. }) => attached.manifests,
        other => panic!("{other:?}"),
    };
    assert_eq!(with.values().map(attached).collect::<Vec<_>>(), [2, 1]);
    for reference in [&signatures[0], &signatures[1], &sbom.digest().to_string()] {
        world.assert_same(reference).await;
    }
    // Merged, not copied: it has a form of its own.
    let listed = world.b.at("team/app", signed.digest().as_tag("").to_string()).manifest().await.json();
    assert_eq!(listed["manifests"][0]["digest"], sbom.digest().as_str());
}

/// Would break: one bad tag that ends the whole, a tag that is overwritten without having been asked for.
#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_fails_or_differs_keeps_no_other_from_being_copied() {
    let world = World::new().await;
    for n in 0..5 {
        Image::random(n).layers(1, 1000).build().push(&world.a.at("team/app", format!("v{n}"))).await;
    }
    let other = artifact(7, "application/x", 10);
    other.push(&world.b.at("team/app", "v1")).await;
    let broken = Image::random(3).layers(1, 1000).build().largest_blob().clone();
    let name = broken.to_string();
    world.source.on(move |request| match request.is("GET", &name) {
        true => Action::status(403, &[], ""),
        false => Action::Pass,
    });
    let tagged = world.copy_all(PLAIN).await;
    assert_eq!(tagged["v1"], Ok(Outcome::Exists { digest: other.digest().clone() }));
    assert!(matches!(&tagged["v3"], Err(error) if error.contains("403")), "{:?}", tagged["v3"]);
    assert_eq!(world.b.client().tags("team/app").await, ["v0", "v1", "v2", "v4"]);

    world.source.on(|_| Action::Pass);
    let tagged = world.copy_all(Options { overwrite: true, ..PLAIN }).await;
    assert!(is_copied(&tagged["v1"]) && is_copied(&tagged["v3"]));
    for n in 0..5 {
        world.assert_same(format!("v{n}")).await;
    }
}

/// Would break: a child that two indexes share is put for both, or believed to be there when it is not.
#[tokio::test(flavor = "multi_thread")]
async fn tags_of_one_index_put_its_children_once() {
    let world = World::new().await;
    let index = Index::random(1).platforms(3).layers(2, 1000).build();
    for tag in ["v7", "v7.1", "latest"] {
        index.push(&world.a.at("team/app", tag)).await;
    }
    let tagged = world.copy_all(PLAIN).await;
    assert!(tagged.len() == 3 && tagged.values().all(is_copied), "{tagged:?}");
    for tag in ["v7", "v7.1", "latest"] {
        world.assert_same(tag).await;
    }
    let puts = world.target.count("PUT", "/manifests/sha256:");
    assert_eq!(puts, 3, "so often was a child put");
}
