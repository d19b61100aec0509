//! Rules that lead on from each other: chains, rings, and stages within one registry.

use transship_tests::*;

use crate::world::*;

/// Would break: a copy that is taken for an echo where it should be carried on.
#[tokio::test]
async fn a_chain_carries_a_push_to_its_end() {
    let world = World::new(["a", "b", "c"], &[mirror("to-b", "a", "b"), mirror("to-c", "b", "c")]).await;
    for image in [Index::random(1).platforms(2).layers(1, 4 << 10).build(), image(2), image(1)] {
        image.push(&world.app("a")).await;
        world.comes_to_hold("c", &image).await;
    }
    world.settle().await;
    assert_same(&world.app("a"), &world.app("c")).await;
    for rule in ["a/to-b", "b/to-c"] {
        assert_eq!(world.outcomes(rule).await, ["copied", "copied", "copied"], "{rule}");
    }
}

/// Would break: a copy that goes round and round, a task for each lap; or, with the ring closed, one that does not go round at all.
#[tokio::test]
async fn a_ring_carries_a_push_round_once() {
    let ring = [mirror("to-b", "a", "b"), mirror("to-c", "b", "c"), mirror("to-a", "c", "a")];
    let world = World::new(["a", "b", "c"], &ring).await;
    for (n, from) in ["a", "b", "c"].into_iter().enumerate() {
        let image = image(n as u64);
        image.push(&world.app(from)).await;
        world.settle().await;
        for name in ["a", "b", "c"] {
            assert_eq!(world.holds(name).await.as_ref(), Some(image.digest()), "{name} has what was pushed to {from}");
        }
    }
    for rule in ["a/to-b", "b/to-c", "c/to-a"] {
        assert_eq!(
            world.outcomes(rule).await,
            ["copied", "copied"],
            "{rule}: two pushes of three pass it, and it ends before the third"
        );
    }
}

/// Would break: stages in one registry that are taken for one place; layers that are sent through the network although the
/// registry has them.
#[tokio::test]
async fn stages_within_one_registry_follow_each_other_and_mount_their_layers() {
    let stage = |name: &str, from: &str, to: &str| {
        rule(name, &format!("instance: a, namespace: {from}"), &format!("instance: a, namespace: {to}"), "overwrite: true")
    };
    let world = World::new(["a"], &[stage("to-test", "dev", "test"), stage("to-prod", "test", "prod")]).await;
    let image = Index::random(1).platforms(2).layers(2, 256 << 10).build();
    image.push(&world.at("a", "dev/app", "v1")).await;
    world.transship.ended("a/to-prod", 1).await;
    world.settle().await;

    for to in ["test/app", "prod/app"] {
        assert_same(&world.at("a", "dev/app", "v1"), &world.at("a", to, "v1")).await;
    }
    for rule in ["a/to-test", "a/to-prod"] {
        let tasks = world.transship.ended(rule, 1).await;
        let resource = only_resource(&world.transship, &tasks[0]).await;
        assert_eq!(outcome(&resource), "copied");
        assert_eq!(resource["bytes_moved"], 0, "{resource}");
        assert_eq!(resource["bytes_mounted"], image.size(), "{resource}");
    }
    let moved = |exchange: &Exchange| exchange.request.path.contains("/blobs/") && exchange.uploaded + exchange.downloaded > 0;
    assert!(
        !world.front("a").exchanges().iter().any(|e| moved(e) && !e.request.path.contains("/mark")),
        "no byte of a layer moves"
    );
}

/// Would break: a push that was overwritten and put back, and then carried to the next registry but not beyond it.
#[tokio::test]
async fn what_was_put_back_is_carried_to_the_end_of_a_chain() {
    let [to_b, to_a] = both_ways("a", "b");
    let world = World::new(["a", "b", "c", "d"], &[to_b, to_a, mirror("to-c", "b", "c"), mirror("to-d", "c", "d")]).await;
    let (older, newer) = (image(1), image(2));
    let (first, second) = (world.hold_notifications("a"), world.hold_notifications("b"));
    older.push(&world.app("a")).await;
    newer.push(&world.app("b")).await;
    first.open();
    world.transship.ended("a/to-b", 1).await;
    assert_eq!(world.holds("b").await.as_ref(), Some(older.digest()));

    // The copy to c can't begin before b has the newer image again.
    world.front("c").on(|_| Action::status(429, &[], ""));
    second.open();
    world.comes_to_hold("b", &newer).await;
    world.front("c").on(|_| Action::Pass);

    world.settle().await;
    for name in ["a", "b", "c", "d"] {
        assert_eq!(world.holds(name).await.as_ref(), Some(newer.digest()), "{name}");
    }
}

/// Would break: a registry that is fed by one that two-way rules keep, and that is left with an older push which stood there only
/// until the newer one was put back.
#[tokio::test]
async fn what_is_to_be_put_back_is_carried_on_instead_of_what_stands_there() {
    let [to_b, to_a] = both_ways("a", "b");
    let world = World::new(["a", "b", "c"], &[to_b, to_a, mirror("to-c", "b", "c")]).await;
    let (older, newer) = (image(1), image(2));
    let (first, second) = (world.hold_notifications("a"), world.hold_notifications("b"));
    older.push(&world.app("a")).await;
    newer.push(&world.app("b")).await;
    first.open();
    world.transship.ended("a/to-b", 1).await;
    assert_eq!(world.holds("b").await.as_ref(), Some(older.digest()));

    // Everything else is done before it is put back.
    let gate = Gate::new();
    world.hold("b", "PUT", "/team/app/manifests/v1", &gate);
    second.open();
    gate.reached(1).await;
    world.flush().await;
    world.idle_but_for(1).await;
    assert_eq!(world.holds("b").await.as_ref(), Some(older.digest()));
    gate.open();
    world.settle().await;
    for name in ["a", "b", "c"] {
        assert_eq!(world.holds(name).await.as_ref(), Some(newer.digest()), "{name}");
    }
}
