//! Rules that lead both ways: both ends come to hold the same, the newer of two pushes, and then it is quiet.

use transship_tests::*;

use crate::world::*;

/// Would break: two jobs that each overwrite the other's end, and so swap the two images; a winner that is decided by who was
/// faster to copy; echoes that are copied on for ever.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_pushes_at_the_same_time_both_ends_keep_the_newer_one() {
    const TAGS: u64 = 8;
    let world = World::new(["a", "b"], &both_ways("a", "b")).await;
    let mut pushes = tokio::task::JoinSet::new();
    for tag in 0..TAGS {
        for (seed, name) in [(100 + tag, "a"), (200 + tag, "b")] {
            let at = world.at(name, APP, &format!("v{tag}"));
            pushes.spawn(async move { image(seed).push(&at).await });
        }
    }
    pushes.join_all().await;
    world.settle().await;

    for tag in 0..TAGS {
        let (mine, theirs) = (image(100 + tag), image(200 + tag));
        let tag = format!("v{tag}");
        let newer = if world.pushed_at("a", &tag, mine.digest()).await > world.pushed_at("b", &tag, theirs.digest()).await {
            &mine
        } else {
            &theirs
        };
        for name in ["a", "b"] {
            let held = world.at(name, APP, &tag).manifest().await.digest;
            assert_eq!(held, *newer.digest(), "the newer one of {tag} at {name}");
        }
    }
    // One for each push by a person. In doubt there may be a look more, never a series.
    let tasks = world.transship.tasks("a/to-b").await.len() + world.transship.tasks("b/to-a").await.len();
    assert!((16..=24).contains(&tasks), "{tasks} tasks for 16 pushes");
}

/// Would break: a newer push that is lost because an older one was copied over it before its own notification came.
#[tokio::test]
async fn a_newer_push_that_was_overwritten_before_it_was_known_is_put_back() {
    let world = World::new(["a", "b"], &both_ways("a", "b")).await;
    let gate = world.hold_notifications("b");
    let (older, newer) = (image(1), image(2));
    let both_pushed = world.hold_notifications("a");
    older.push(&world.app("a")).await;
    newer.push(&world.app("b")).await;
    both_pushed.open();
    // Nothing is known of b's push yet, and a's is copied over it.
    world.transship.ended("a/to-b", 1).await;
    assert_eq!(world.holds("b").await.as_ref(), Some(older.digest()));

    gate.open();
    world.settle().await;
    assert_eq!(world.holds("a").await.as_ref(), Some(newer.digest()));
    assert_eq!(world.holds("b").await.as_ref(), Some(newer.digest()), "it was put back");
    assert_same(&world.app("b"), &world.app("a")).await;
    assert_eq!(world.outcomes("a/to-b").await, ["copied"]);
    assert_eq!(world.outcomes("b/to-a").await, ["copied"], "one push, one task, and what was put back is none");
}

/// Would break: an older push whose notification is late and that is taken for the newest.
#[tokio::test]
async fn an_older_push_whose_notification_is_late_changes_nothing() {
    let world = World::new(["a", "b"], &both_ways("a", "b")).await;
    let gate = world.hold_notifications("a");
    let (older, newer) = (image(1), image(2));
    older.push(&world.app("a")).await;
    newer.push(&world.app("b")).await;
    world.comes_to_hold("a", &newer).await;

    gate.open();
    world.settle().await;
    for name in ["a", "b"] {
        assert_eq!(world.holds(name).await.as_ref(), Some(newer.digest()), "{name}");
    }
    assert_eq!(world.outcomes("b/to-a").await, ["copied"]);
    assert_eq!(world.outcomes("a/to-b").await, ["unchanged"]);
}

/// Would break: an older push that is copied over a newer one that is known.
#[tokio::test]
async fn an_older_push_does_not_overwrite_a_newer_one() {
    let world = World::new(["a", "b"], &both_ways("a", "b")).await;
    let (older, newer) = (image(1), image(2));
    let unknown = world.hold_notifications("a");
    // The newer one is kept from a, so that the older one is still there when it is to be copied.
    let gate = Gate::new();
    world.hold("a", "PUT", "/team/app/manifests/v1", &gate);
    older.push(&world.app("a")).await;
    newer.push(&world.app("b")).await;
    gate.reached(1).await;
    unknown.open();
    world.transship.ended("a/to-b", 1).await;
    assert_eq!(world.outcomes("a/to-b").await, ["skipped superseded"]);
    assert_eq!(world.holds("b").await.as_ref(), Some(newer.digest()));

    gate.open();
    world.settle().await;
    for name in ["a", "b"] {
        assert_eq!(world.holds(name).await.as_ref(), Some(newer.digest()), "{name}");
    }
}

/// Would break: a copy that looks, is overtaken by a push at the target, and sets its tag all the same.
#[tokio::test]
async fn a_newer_push_between_the_last_look_and_the_tag_is_put_back() {
    let world = World::new(["a", "b"], &both_ways("a", "b")).await;
    let (older, newer) = (image(1), image(2));
    let gate = Gate::new();
    world.hold("b", "PUT", "/team/app/manifests/v1", &gate);
    older.push(&world.app("a")).await;
    gate.reached(1).await;
    newer.push(&world.app("b")).await;
    // Its notification is known, and it has been copied, before the older one is set over it.
    world.comes_to_hold("a", &newer).await;
    gate.open();
    world.settle().await;
    for name in ["a", "b"] {
        assert_eq!(world.holds(name).await.as_ref(), Some(newer.digest()), "{name}");
    }
}

/// Would break: a push of what the other end has already, if it makes work, or an echo of nothing.
#[tokio::test]
async fn the_same_image_pushed_at_both_ends_moves_nothing() {
    let world = World::new(["a", "b"], &both_ways("a", "b")).await;
    let gates = ["a", "b"].map(|name| world.hold_notifications(name));
    let image = image(1);
    for name in ["a", "b"] {
        image.push(&world.app(name)).await;
    }
    gates.iter().for_each(Gate::open);
    world.settle().await;
    for (name, rule) in [("a", "a/to-b"), ("b", "b/to-a")] {
        assert_eq!(world.outcomes(rule).await, ["unchanged"]);
        assert_eq!(world.front(name).count("PUT", "/team/app/"), 0, "nothing is put to {name}");
    }
}

/// Would break: an image that transship brought, taken for an echo when a person goes back to it.
#[tokio::test]
async fn a_person_who_goes_back_to_what_was_copied_before_is_followed() {
    let world = World::new(["a", "b"], &both_ways("a", "b")).await;
    let (first, second) = (image(1), image(2));
    first.push(&world.app("a")).await;
    world.comes_to_hold("b", &first).await;
    world.settle().await;
    second.push(&world.app("b")).await;
    world.comes_to_hold("a", &second).await;
    first.push(&world.app("b")).await;
    world.comes_to_hold("a", &first).await;

    world.settle().await;
    for name in ["a", "b"] {
        assert_eq!(world.holds(name).await.as_ref(), Some(first.digest()), "{name}");
    }
    assert_eq!(world.outcomes("a/to-b").await, ["copied"]);
    assert_eq!(world.outcomes("b/to-a").await, ["copied", "copied"]);
}

/// Would break: three registries that all mirror each other, where each push has two ways to each of the others.
#[tokio::test(flavor = "multi_thread")]
async fn three_registries_that_mirror_each_other_agree() {
    let rules = [both_ways("a", "b"), both_ways("b", "c"), both_ways("c", "a")].concat();
    let world = World::new(["a", "b", "c"], &rules).await;
    let names = ["a", "b", "c"];
    for round in 0..2 {
        let mut pushes = tokio::task::JoinSet::new();
        for tag in 0..3 {
            for (i, name) in names.into_iter().enumerate() {
                let at = world.at(name, APP, &format!("v{tag}"));
                pushes.spawn(async move { image(round * 100 + tag * 10 + i as u64).push(&at).await });
            }
        }
        pushes.join_all().await;
        world.settle().await;
        for tag in 0..3 {
            let mut times = Vec::new();
            for (i, name) in names.into_iter().enumerate() {
                let image = image(round * 100 + tag * 10 + i as u64);
                times.push((world.pushed_at(name, &format!("v{tag}"), image.digest()).await, image));
            }
            let newest = times.into_iter().max_by(|a, b| a.0.cmp(&b.0)).unwrap().1;
            for name in names {
                let held = world.at(name, APP, &format!("v{tag}")).manifest().await.digest;
                assert_eq!(held, *newest.digest(), "the newest one of v{tag} at {name} in round {round}");
            }
        }
    }
}
