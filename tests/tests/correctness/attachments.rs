//! Signatures and what else refers to an image: they follow it, whenever they are pushed.

use transship_tests::*;

use crate::world::*;

/// An image, and what signs it: a cosign tag, and a referrer with the tag that lists it, as clients push them where the registry
/// does not list referrers by itself.
struct Signed {
    image: Artifact,
    cosign: Artifact,
    referrer: Artifact,
}

impl Signed {
    fn new() -> Self {
        let image = image(1);
        let (cosign, referrer) = (cosign_signature(&image), referrer(1, &image, "application/vnd.example.sbom"));
        Self { image, cosign, referrer }
    }

    async fn sign(&self, at: &At) {
        self.cosign.push(&at.with(self.cosign_tag())).await;
        self.push_referrer(at).await;
    }

    async fn push_referrer(&self, at: &At) {
        referrers_index(std::slice::from_ref(&self.referrer)).push(&at.with(self.image.digest().as_tag(""))).await;
    }

    fn cosign_tag(&self) -> String {
        self.image.digest().as_tag(".sig").to_string()
    }

    /// Requires that image and signatures are at `at` as they are at `from`.
    async fn assert_complete(&self, from: &At, at: &At) {
        for reference in [at.reference.clone(), self.cosign_tag(), self.referrer.digest().to_string()] {
            assert_same(&from.with(&reference), &at.with(&reference)).await;
        }
        let listed = at.with(self.image.digest().as_tag("")).manifest().await.json();
        assert_eq!(listed["manifests"][0]["digest"], self.referrer.digest().as_str(), "the target lists it");
    }
}

/// Would break: a signature whose own notification finds no image at the target, if the copy does not look for it at its end.
#[tokio::test]
async fn a_signature_pushed_while_its_image_is_copied_comes_with_it() {
    let world = World::new(["a", "b"], &[mirror("to-b", "a", "b")]).await;
    let (signed, gate) = (Signed::new(), Gate::new());
    world.hold("b", "PUT", "/team/app/manifests/v1", &gate);
    signed.image.push(&world.app("a")).await;
    gate.reached(1).await;
    signed.sign(&world.app("a")).await;
    // Its notifications have come and were looked into before the image is there.
    world.flush().await;
    world.idle_but_for(1).await;
    assert!(world.at("b", APP, &signed.cosign_tag()).find_manifest().await.is_none());

    gate.open();
    world.settle().await;
    signed.assert_complete(&world.app("a"), &world.app("b")).await;
    let triggers = triggers(&world).await;
    assert_eq!(triggers, ["push team/app:v1"], "it is part of the image's task");
}

/// Would break: a signature that is pushed when the copy has looked for signatures and has not ended.
#[tokio::test]
async fn a_signature_pushed_right_after_the_tag_was_set_comes_by_itself() {
    let world = World::new(["a", "b"], &[mirror("to-b", "a", "b")]).await;
    let (signed, gate) = (Signed::new(), Gate::new());
    // The copy's last request: whether its source has moved.
    world.hold("a", "HEAD", "/team/app/manifests/v1", &gate);
    signed.image.push(&world.app("a")).await;
    gate.reached(1).await;
    signed.sign(&world.app("a")).await;
    world.flush().await;
    world.idle_but_for(1).await;
    signed.assert_complete(&world.app("a"), &world.app("b")).await;

    gate.open();
    world.settle().await;
    assert_eq!(world.outcomes("a/to-b").await.first().map(String::as_str), Some("copied"));
}

/// Would break: signatures that need a push of their image, or its whole rule by hand, to be noticed.
#[tokio::test]
async fn a_signature_pushed_later_is_a_task_of_its_own() {
    // The rule's tags do not meet the signature's.
    let to_b = rule("to-b", r"instance: a, namespace: team, tag: 'v\d+'", "instance: b", "");
    let world = World::new(["a", "b"], &[to_b]).await;
    let (signed, from) = (Signed::new(), world.app("a"));
    signed.image.push(&from).await;
    world.settle().await;
    signed.cosign.push(&from.with(signed.cosign_tag())).await;
    world.settle().await;
    assert_eq!(world.outcomes("a/to-b").await, ["copied", "copied"]);
    signed.push_referrer(&from).await;
    world.settle().await;

    signed.assert_complete(&from, &world.app("b")).await;
    let triggers = triggers(&world).await;
    assert_eq!(triggers[..2], ["push team/app:v1".to_owned(), format!("attachment team/app:{}", signed.cosign_tag())]);
    // The referrer and the tag that lists it: either, or both, may find that the other has not come yet.
    let of_referrer = [signed.referrer.digest().to_string(), signed.image.digest().as_tag("").to_string()];
    let is_of_referrer = |trigger: &String| of_referrer.iter().any(|reference| trigger.ends_with(reference));
    assert!(triggers[2..].iter().all(is_of_referrer), "{triggers:?}");
    let outcomes = world.outcomes("a/to-b").await;
    assert_eq!(outcomes[2..].iter().filter(|outcome| *outcome == "copied").count(), 1, "{outcomes:?}");

    // What belongs to nothing that the target has is not its business.
    let unknown = image(9);
    cosign_signature(&unknown).push(&world.app("a").with(unknown.digest().as_tag(".sig"))).await;
    world.settle().await;
    assert_eq!(world.outcomes("a/to-b").await.len(), outcomes.len(), "no task");
    assert!(world.app("b").with(unknown.digest().as_tag(".sig")).find_manifest().await.is_none());
}

/// Would break: signatures of an image that passes a registry on its way, and those that two-way rules send back and forth.
#[tokio::test]
async fn a_signature_follows_its_image_along_a_chain_and_both_ways() {
    let [to_b, to_a] = both_ways("a", "b");
    let world = World::new(["a", "b", "c"], &[to_b, to_a, mirror("to-c", "b", "c")]).await;
    let signed = Signed::new();
    signed.image.push(&world.app("a")).await;
    world.settle().await;
    signed.sign(&world.app("a")).await;
    world.settle().await;
    for name in ["b", "c"] {
        signed.assert_complete(&world.app("a"), &world.app(name)).await;
    }
}

/// Would break: signatures that go where a rule says that they are not to go, with their image or after it; looks at them that cost
/// requests and can find nothing to do; another rule that loses them.
#[tokio::test]
async fn a_rule_without_referrers_leaves_them_behind_whenever_they_are_pushed() {
    let to_b = rule("to-b", "instance: a, namespace: team", "instance: b", "referrers: false");
    let world = World::new(["a", "b", "c"], &[to_b, mirror("to-c", "a", "c")]).await;
    let (signed, from) = (Signed::new(), world.app("a"));
    // What is signed already, as a copy would find it,
    signed.image.push(&from.with("v0")).await;
    signed.sign(&from).await;
    world.settle().await;
    // and what is signed when it has been copied.
    let later = Signed { image: image(2), cosign: cosign_signature(&image(2)), referrer: signed.referrer.clone() };
    later.image.push(&from).await;
    world.settle().await;
    later.cosign.push(&from.with(later.cosign_tag())).await;
    world.settle().await;
    // A full run finds them no more than a push does.
    let sync = world.transship.run(&["sync", "a/to-b", "--wait"]).await;
    assert!(sync.status.success(), "{}", String::from_utf8_lossy(&sync.stderr));

    assert_eq!(world.app("b").client.tags(APP).await, ["v0", "v1"], "images, and nothing that refers to them");
    let is_of_attachments = |path: &str| path.contains("/team/app/manifests/sha256-") || path.contains("/team/app/referrers/");
    let asked = world.front("b").exchanges();
    assert!(asked.iter().all(|exchange| !is_of_attachments(&exchange.request.path)), "nobody looks for them");
    let triggers = triggers(&world).await;
    assert_eq!(triggers, ["push team/app:v0", "push team/app:v1", "by hand"]);
    signed.assert_complete(&from.with("v0"), &world.app("c").with("v0")).await;
    assert_same(&from.with(later.cosign_tag()), &world.app("c").with(later.cosign_tag())).await;
}

async fn triggers(world: &World) -> Vec<String> {
    let tasks = world.transship.tasks("a/to-b").await;
    tasks.iter().rev().map(|task| task["trigger"].as_str().unwrap().to_owned()).collect()
}
