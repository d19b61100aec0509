//! Several rules that write one target: the newest push wins, whatever the order in which it becomes known.

use transship_tests::*;

use crate::world::*;

/// Would break: a target that has what was copied last instead of what was pushed last.
#[tokio::test]
async fn of_two_sources_the_newest_push_wins_whatever_the_order_of_events() {
    let world = World::new(["a", "b", "t"], &[mirror("to-t", "a", "t"), mirror("to-t", "b", "t")]).await;
    let gates = ["a", "b"].map(|name| world.hold_notifications(name));
    // One tag is newer at a, the other at b; a's notifications come first for both.
    let (older, newer) = (image(1), image(2));
    older.push(&world.at("b", APP, "at-a")).await;
    newer.push(&world.at("a", APP, "at-a")).await;
    older.push(&world.at("a", APP, "at-b")).await;
    newer.push(&world.at("b", APP, "at-b")).await;
    gates[0].open();
    world.transship.ended("a/to-t", 2).await;
    assert_eq!(world.at("t", APP, "at-b").manifest().await.digest, *older.digest(), "all that was known then");
    gates[1].open();
    world.settle().await;

    for tag in ["at-a", "at-b"] {
        assert_eq!(world.at("t", APP, tag).manifest().await.digest, *newer.digest(), "{tag}");
    }
    assert_eq!(world.outcomes("a/to-t").await, ["copied", "copied"]);
    let mut outcomes = world.outcomes("b/to-t").await;
    outcomes.sort();
    assert_eq!(outcomes, ["copied", "skipped superseded"]);
    let tasks = world.transship.ended("b/to-t", 2).await;
    assert!(tasks.iter().all(|task| task["status"] == "succeeded" && task["success_rate"] == 1.0), "{tasks:?}");
    // The sources are nobody's target.
    assert_eq!(world.at("b", APP, "at-a").manifest().await.digest, *older.digest());
}

/// Would break: a push that reaches the target by a chain and has no version there, so that it counts as older than all others.
#[tokio::test]
async fn a_push_that_comes_by_a_chain_is_as_new_as_any_other() {
    let world =
        World::new(["a", "b", "x", "t"], &[mirror("to-b", "a", "b"), mirror("to-t", "b", "t"), mirror("to-t", "x", "t")]).await;
    for (from, seed) in [("x", 1), ("a", 2), ("x", 3), ("a", 4)] {
        let image = image(seed);
        image.push(&world.app(from)).await;
        world.settle().await;
        assert_eq!(world.holds("t").await.as_ref(), Some(image.digest()), "{from}'s push {seed}");
    }
    assert_eq!(world.outcomes("b/to-t").await, ["copied", "copied"]);
}

/// Would break: a registry that is a plain mirror, in which something is put back because what it feeds has several sources.
#[tokio::test]
async fn where_one_source_leads_it_wins_although_versions_are_known() {
    let world =
        World::new(["a", "b", "x", "t"], &[mirror("to-b", "a", "b"), mirror("to-t", "b", "t"), mirror("to-t", "x", "t")]).await;
    let gate = world.hold_notifications("a");
    let (older, newer) = (image(1), image(2));
    older.push(&world.app("a")).await;
    newer.push(&world.app("b")).await;
    world.comes_to_hold("t", &newer).await;
    gate.open();
    world.settle().await;
    assert_eq!(world.holds("b").await.as_ref(), Some(older.digest()), "b mirrors a");
    assert_eq!(world.holds("t").await.as_ref(), Some(newer.digest()), "of t's sources none has anything newer");
}

/// Would break: a person's push at the target of several sources, that an older copy is just about to overwrite.
#[tokio::test]
async fn a_push_at_the_target_itself_is_put_back_when_an_older_copy_was_quicker() {
    let world = World::new(["a", "b", "t"], &[mirror("to-t", "a", "t"), mirror("to-t", "b", "t")]).await;
    let (older, newer, gate) = (image(1), image(2), Gate::new());
    world.hold("t", "PUT", "/team/app/manifests/v1", &gate);
    older.push(&world.app("a")).await;
    gate.reached(1).await;
    newer.push(&world.app("t")).await;
    world.flush().await;
    gate.open();
    world.settle().await;
    assert_eq!(world.outcomes("a/to-t").await, ["copied"]);
    assert_eq!(world.holds("t").await.as_ref(), Some(newer.digest()));
}

/// Would break: the same push, if it becomes known only afterwards, because no rule leads on from there.
#[tokio::test]
async fn a_push_at_the_target_itself_is_put_back_when_it_becomes_known_late() {
    let world = World::new(["a", "b", "t"], &[mirror("to-t", "a", "t"), mirror("to-t", "b", "t")]).await;
    let gates = ["a", "t"].map(|name| world.hold_notifications(name));
    let (older, newer) = (image(1), image(2));
    older.push(&world.app("a")).await;
    newer.push(&world.app("t")).await;
    gates[0].open();
    world.transship.ended("a/to-t", 1).await;
    assert_eq!(world.holds("t").await.as_ref(), Some(older.digest()));
    gates[1].open();
    world.settle().await;
    assert_eq!(world.holds("t").await.as_ref(), Some(newer.digest()));
}
