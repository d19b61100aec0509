//! Leases and checkpoints of uploads, as several processes see them in the embedded store.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use serde_json::{Value, json};
use transship_model::{Digest, Repository};
use transship_state::{Item, Key, LeaseAnswer, Op, Table, Uploads, sqlite::SqliteStore};

const ORIGIN: &str = "https://b.example.com";
const WHAT: &str = "sha256:1234";

/// A store in a folder that goes away with it.
struct World {
    store: SqliteStore,
    _dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { store: SqliteStore::open(dir.path()).unwrap(), _dir: dir }
    }

    fn process(&self, name: &str) -> Uploads {
        Uploads::new(Arc::new(self.store.table()), name)
    }

    async fn item(&self, key: &Key) -> Item {
        self.store.table().get(key).await.unwrap().unwrap()
    }

    /// So much time is left of what is at a key.
    async fn left(&self, key: &Key, time: Duration) {
        let expires = Some(Timestamp::now() + time);
        let item = Item { expires, ..self.item(key).await };
        self.store.table().write(vec![Op::Put { item, condition: None }]).await.unwrap();
    }

    /// What is at a key is good for so long, give or take what a test may take and what whole seconds leave out.
    async fn assert_good_for(&self, key: &Key, time: Duration) {
        let left = Duration::try_from(self.item(key).await.expires.unwrap() - Timestamp::now()).unwrap();
        assert!(left > time.saturating_sub(Duration::from_secs(30)) && left <= time + Duration::from_secs(1), "{left:?}");
    }
}

fn lease() -> Key {
    Key::new(format!("leases/{ORIGIN}/{WHAT}"), "lease")
}

fn repo(name: &str) -> Repository {
    name.parse().unwrap()
}

/// Asks for the lease of what is to go to a repository of the process's own name.
async fn take(process: &Uploads, name: &str) -> LeaseAnswer {
    process.take(ORIGIN, &repo(name), WHAT).await.unwrap()
}

async fn give_back(process: &Uploads, name: &str, brought: bool) {
    process.give_back(ORIGIN, &repo(name), WHAT, brought).await.unwrap();
}

/// Would break: two workers that send the same bytes at a time; a holder that takes itself for another; a lease that stays with
/// who has given it back.
#[tokio::test]
async fn a_lease_is_had_by_one_until_it_is_given_back() {
    let world = World::new();
    let (one, two) = (world.process("one"), world.process("two"));
    assert_eq!(take(&one, "one").await, LeaseAnswer::Taken);
    assert_eq!(take(&two, "two").await, LeaseAnswer::Busy);
    assert_eq!(take(&one, "one").await, LeaseAnswer::Taken, "it is renewed");
    assert_eq!(take(&two, "two").await, LeaseAnswer::Busy);
    give_back(&one, "one", false).await;
    assert_eq!(take(&two, "two").await, LeaseAnswer::Taken);
    assert_eq!(take(&one, "one").await, LeaseAnswer::Busy);
}

/// Would break: a lease of one thing at one registry that keeps others from other things, or from the same elsewhere.
#[tokio::test]
async fn a_lease_is_for_one_thing_at_one_registry() {
    let world = World::new();
    let (one, two) = (world.process("one"), world.process("two"));
    assert_eq!(take(&one, "one").await, LeaseAnswer::Taken);
    for (origin, what) in [("https://c.example.com", WHAT), (ORIGIN, "sha256:5678")] {
        assert_eq!(two.take(origin, &repo("two"), what).await.unwrap(), LeaseAnswer::Taken, "{origin} {what}");
    }
    // Whatever repository it is to go to.
    assert_eq!(take(&two, "one").await, LeaseAnswer::Busy);
}

/// Would break: a layer that is sent again although it could be mounted, by those that have waited or by who has brought it.
#[tokio::test]
async fn what_was_brought_everybody_learns_the_repository_of() {
    let world = World::new();
    let (one, two) = (world.process("one"), world.process("two"));
    assert_eq!(take(&one, "one").await, LeaseAnswer::Taken);
    give_back(&one, "one", true).await;
    for (process, name) in [(&two, "two"), (&one, "one"), (&one, "elsewhere"), (&two, "two")] {
        assert_eq!(take(process, name).await, LeaseAnswer::Brought(repo("one")));
    }
}

/// Would break: a worker that was too late and ends the lease of who has it now, or tells of what it has not brought.
#[tokio::test]
async fn a_stranger_gives_back_nothing() {
    let world = World::new();
    let (one, two) = (world.process("one"), world.process("two"));
    for brought in [false, true] {
        give_back(&two, "two", brought).await;
        assert_eq!(take(&one, "one").await, LeaseAnswer::Taken, "nothing was there");
        let before = world.item(&lease()).await;
        give_back(&two, "two", brought).await;
        assert_eq!(world.item(&lease()).await, before);
        assert_eq!(take(&two, "two").await, LeaseAnswer::Busy);
        give_back(&one, "one", false).await;
    }
}

/// Would break: a process that is started again and waits for itself.
#[tokio::test]
async fn a_process_of_the_same_name_takes_a_lease_over() {
    let world = World::new();
    assert_eq!(take(&world.process("one"), "one").await, LeaseAnswer::Taken);
    let next = world.process("one");
    assert_eq!(take(&next, "other").await, LeaseAnswer::Taken);
    give_back(&next, "other", true).await;
    assert_eq!(take(&world.process("two"), "two").await, LeaseAnswer::Brought(repo("other")));
}

/// Would break: a lease that ends under its holder's hands, or outlives it; a repository that is told long after it is gone.
#[tokio::test]
async fn a_lease_lasts_a_minute_from_when_it_was_renewed_and_what_was_brought_is_known_for_ten() {
    let world = World::new();
    let (one, two) = (world.process("one"), world.process("two"));
    assert_eq!(take(&one, "one").await, LeaseAnswer::Taken);
    world.assert_good_for(&lease(), Duration::from_secs(60)).await;
    world.left(&lease(), Duration::from_secs(10)).await;
    assert_eq!(take(&one, "one").await, LeaseAnswer::Taken);
    world.assert_good_for(&lease(), Duration::from_secs(60)).await;
    give_back(&one, "one", true).await;
    world.assert_good_for(&lease(), Duration::from_secs(600)).await;
    assert_eq!(take(&two, "two").await, LeaseAnswer::Brought(repo("one")));
    world.assert_good_for(&lease(), Duration::from_secs(600)).await;
    // It is over: whoever comes may have it.
    world.left(&lease(), Duration::ZERO).await;
    assert_eq!(take(&two, "two").await, LeaseAnswer::Taken);
    world.left(&lease(), Duration::ZERO).await;
    assert_eq!(take(&one, "one").await, LeaseAnswer::Taken);
    assert_eq!(take(&two, "two").await, LeaseAnswer::Busy);
}

/// Would break: an upload that goes on where another blob's, another repository's or another registry's has come to, or where it
/// had come to long before.
#[tokio::test]
async fn a_checkpoint_is_kept_replaced_and_forgotten_each_by_itself() {
    let world = World::new();
    let uploads = world.process("one");
    let (first, second) = (Digest::of(b"first"), Digest::of(b"second"));
    let places = [
        (ORIGIN, repo("app"), &first),
        (ORIGIN, repo("app"), &second),
        (ORIGIN, repo("app/other"), &first),
        ("https://c.example.com", repo("app"), &first),
    ];
    // Another process's view: a checkpoint is nobody's own.
    let other = world.process("two");
    let seen = async || {
        let mut seen = Vec::new();
        for (origin, repository, digest) in &places {
            let kept: Option<Value> = other.checkpoint(origin, repository, digest).await.unwrap();
            seen.push(kept.map(|kept| kept["offset"].as_u64().unwrap()));
        }
        seen
    };
    assert_eq!(seen().await, [None; 4]);
    for ((origin, repository, digest), offset) in places.iter().zip(1_u64..) {
        uploads.keep(origin, repository, digest, &json!({"offset": offset})).await.unwrap();
    }
    assert_eq!(seen().await, [Some(1), Some(2), Some(3), Some(4)]);
    let (origin, repository, digest) = &places[0];
    uploads.keep(origin, repository, digest, &json!({"offset": 5_000_000_000_u64})).await.unwrap();
    assert_eq!(seen().await, [Some(5_000_000_000), Some(2), Some(3), Some(4)]);
    for (gone, (origin, repository, digest)) in places.iter().enumerate() {
        // Once more does no harm.
        for _ in 0..2 {
            uploads.forget(origin, repository, digest).await.unwrap();
        }
        assert!(seen().await.iter().enumerate().all(|(place, kept)| kept.is_none() == (place <= gone)), "{gone}");
    }
}

/// Would break: a checkpoint that is believed in when the registry has long purged the upload, or is gone while it has not.
#[tokio::test]
async fn a_checkpoint_is_good_for_a_week_from_when_it_was_kept() {
    let world = World::new();
    let (uploads, repository, digest) = (world.process("one"), repo("app"), Digest::of(b"blob"));
    let key = Key::new(format!("uploads/{ORIGIN}/{repository}"), digest.to_string());
    for offset in [1, 2] {
        let kept = json!({"offset": offset});
        uploads.keep(ORIGIN, &repository, &digest, &kept).await.unwrap();
        world.assert_good_for(&key, Duration::from_secs(7 * 24 * 3600)).await;
        assert_eq!(uploads.checkpoint::<Value>(ORIGIN, &repository, &digest).await.unwrap(), Some(kept));
        world.left(&key, Duration::from_secs(3600)).await;
    }
    world.left(&key, Duration::ZERO).await;
    assert_eq!(uploads.checkpoint::<Value>(ORIGIN, &repository, &digest).await.unwrap(), None);
}
