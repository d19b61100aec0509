//! What a [`Table`] must do.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::unique;
use crate::{Condition, Item, Key, Op, Query, Table, TableError};

/// Runs all checks against a table.
pub async fn table(table: &dyn Table) {
    let fixture = Fixture { table, run: unique() };
    fixture.what_is_put_is_got().await;
    fixture.a_put_replaces_the_whole_item().await;
    fixture.an_update_leaves_other_attributes_alone().await;
    fixture.an_update_can_make_an_item().await;
    fixture.a_delete_needs_nothing_to_be_there().await;
    fixture.conditions_are_judged().await;
    fixture.a_write_is_all_or_nothing().await;
    fixture.concurrent_additions_all_count().await;
    fixture.of_concurrent_first_writers_one_wins().await;
    fixture.a_query_is_ordered_by_bytes().await;
    fixture.a_query_keeps_to_its_prefix().await;
    fixture.pages_join_without_gap_or_overlap().await;
    fixture.impossible_writes_are_refused().await;
    fixture.the_largest_possible_writes_are_taken().await;
    fixture.an_expired_item_is_gone_for_everybody().await;
    fixture.an_item_expires_by_itself().await;
}

struct Fixture<'a> {
    table: &'a dyn Table,
    run: String,
}

impl Fixture<'_> {
    /// A key that no other check or run uses.
    fn key(&self, check: &str, sort: &str) -> Key {
        Key::new(format!("conformance/{}/{check}", self.run), sort)
    }

    async fn get(&self, key: &Key) -> Option<Item> {
        self.table.get(key).await.unwrap()
    }

    async fn attributes(&self, key: &Key) -> Option<Value> {
        self.get(key).await.map(|item| Value::Object(item.attributes))
    }

    async fn write(&self, op: Op) -> Result<(), TableError> {
        self.table.write(vec![op]).await
    }

    async fn put(&self, key: &Key, attributes: Value) {
        self.write(put(key, attributes)).await.unwrap();
    }

    async fn what_is_put_is_got(&self) {
        let key = self.key("put", "a/ü/\u{1f40b}");
        assert_eq!(self.get(&key).await, None, "an item that nobody has put is there");
        let attributes = json!({
            "text": "line\nline, \"quoted\", ü \u{1f40b}", "empty": "", "yes": true, "no": false, "nothing": null,
            "least": i64::MIN, "greatest": i64::MAX, "zero": 0, "list": [1, "two", [], {}], "map": {"in": {"deeper": [null]}},
        });
        let expires = Timestamp::from_second(Timestamp::now().as_second() + 3600).unwrap();
        let item = Item { key: key.clone(), attributes: map(attributes), expires: Some(expires) };
        self.write(Op::Put { item: item.clone(), condition: None }).await.unwrap();
        assert_eq!(self.get(&key).await, Some(item), "an item is not read as it was written");
    }

    async fn a_put_replaces_the_whole_item(&self) {
        let key = self.key("replace", "a");
        let item = Item { key: key.clone(), attributes: map(json!({"old": 1})), expires: Some(in_an_hour()) };
        self.write(Op::Put { item, condition: None }).await.unwrap();
        self.put(&key, json!({"new": 2})).await;
        let item = self.get(&key).await.unwrap();
        assert_eq!(Value::Object(item.attributes), json!({"new": 2}), "a put leaves attributes of the item before it");
        assert_eq!(item.expires, None, "a put leaves the expiry of the item before it: the new one would vanish");
    }

    async fn an_update_leaves_other_attributes_alone(&self) {
        let key = self.key("update", "a");
        let expires = in_an_hour();
        let item = Item { key: key.clone(), attributes: map(json!({"kept": "k", "set": 1, "n": 40})), expires: Some(expires) };
        self.write(Op::Put { item, condition: None }).await.unwrap();
        self.write(update(&key, json!({"set": [2]}), &[("n", 2), ("m", -3)])).await.unwrap();
        let item = self.get(&key).await.unwrap();
        let expected = json!({"kept": "k", "set": [2], "n": 42, "m": -3});
        assert_eq!(Value::Object(item.attributes), expected, "an update does more or less than it says");
        assert_eq!(item.expires, Some(expires), "an update without an expiry changes it");
        let refused = self.write(update(&key, json!({"set": 3}), &[("kept", 1)])).await;
        assert!(matches!(refused, Err(TableError::Invalid(_))), "a text can be added to: {refused:?}");
        assert_eq!(self.attributes(&key).await, Some(expected), "a refused update has changed something");
    }

    async fn an_update_can_make_an_item(&self) {
        let key = self.key("upsert", "a");
        self.write(update(&key, json!({"set": 1}), &[("n", 5)])).await.unwrap();
        assert_eq!(self.attributes(&key).await, Some(json!({"set": 1, "n": 5})), "a first count is lost");
        let bare = self.key("upsert", "bare");
        self.write(update(&bare, json!({}), &[])).await.unwrap();
        assert_eq!(self.attributes(&bare).await, Some(json!({})), "an item without attributes can't be made");
    }

    async fn a_delete_needs_nothing_to_be_there(&self) {
        let key = self.key("delete", "a");
        self.put(&key, json!({})).await;
        for _ in 0..2 {
            self.write(Op::Delete { key: key.clone(), condition: None }).await.unwrap();
            assert_eq!(self.get(&key).await, None, "a deleted item is there");
        }
    }

    async fn conditions_are_judged(&self) {
        use Condition::{Absent, AbsentOrBelow, Equals, Present};
        let (here, gone) = (self.key("conditions", "here"), self.key("conditions", "gone"));
        self.put(&here, json!({"n": 7, "text": "7", "map": {"a": [1]}, "nothing": null})).await;
        let n = |bound| AbsentOrBelow("n".to_owned(), bound);
        let equals = |name: &str, value| Equals(name.to_owned(), value);
        let cases = [
            // condition, holds where the item is, holds where none is
            (Absent, false, true),
            (Present, true, false),
            (equals("n", json!(7)), true, false),
            (equals("n", json!(8)), false, false),
            (equals("n", json!("7")), false, false),
            (equals("text", json!("7")), true, false),
            (equals("map", json!({"a": [1]})), true, false),
            (equals("map", json!({"a": [2]})), false, false),
            (equals("nothing", json!(null)), true, false),
            (equals("missing", json!(null)), false, false),
            (n(8), true, true),
            (n(7), false, true),
            (AbsentOrBelow("text".to_owned(), 8), false, true),
            (AbsentOrBelow("missing".to_owned(), 0), true, true),
        ];
        for (condition, holds_here, holds_gone) in cases {
            for (key, holds) in [(&here, holds_here), (&gone, holds_gone)] {
                let before = self.get(key).await;
                let item = item(key);
                let ops = [
                    Op::Check { key: key.clone(), condition: condition.clone() },
                    Op::Put { item, condition: Some(condition.clone()) },
                    Op::Delete { key: key.clone(), condition: Some(condition.clone()) },
                    conditional_update(key, &condition),
                ];
                for op in ops {
                    match self.write(op.clone()).await {
                        Ok(()) => assert!(holds, "an operation was done against its condition: {op:?}"),
                        Err(TableError::Condition(0)) => assert!(!holds, "an operation was refused without reason: {op:?}"),
                        other => panic!("neither done nor refused: {op:?}: {other:?}"),
                    }
                    if !holds || matches!(op, Op::Check { .. }) {
                        assert_eq!(self.get(key).await, before, "a refused operation, or a check, changed something: {op:?}");
                    }
                    self.restore(key, before.clone()).await;
                }
            }
        }
    }

    async fn restore(&self, key: &Key, item: Option<Item>) {
        let op = match item {
            Some(item) => Op::Put { item, condition: None },
            None => Op::Delete { key: key.clone(), condition: None },
        };
        self.write(op).await.unwrap();
    }

    async fn a_write_is_all_or_nothing(&self) {
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|sort| self.key("all", sort));
        self.put(&b, json!({"n": 1})).await;
        let ops = |condition_of_c: Condition| {
            vec![
                put(&a, json!({"n": 1})),
                update(&b, json!({}), &[("n", 1)]),
                Op::Check { key: c.clone(), condition: condition_of_c },
                Op::Delete { key: d.clone(), condition: Some(Condition::Absent) },
            ]
        };
        let refused = self.table.write(ops(Condition::Present)).await;
        assert!(matches!(refused, Err(TableError::Condition(2))), "the refused operation is not named: {refused:?}");
        assert_eq!(self.attributes(&a).await, None, "part of a refused write was done: tasks would count twice");
        assert_eq!(self.attributes(&b).await, Some(json!({"n": 1})), "part of a refused write was done");
        self.table.write(ops(Condition::Absent)).await.unwrap();
        assert_eq!(self.attributes(&a).await, Some(json!({"n": 1})), "part of a write was not done");
        assert_eq!(self.attributes(&b).await, Some(json!({"n": 2})), "part of a write was not done");

        let both = vec![
            Op::Put { item: item(&c), condition: Some(Condition::Absent) },
            Op::Check { key: d.clone(), condition: Condition::Present },
            Op::Check { key: a.clone(), condition: Condition::Absent },
        ];
        let refused = self.table.write(both).await;
        assert!(matches!(refused, Err(TableError::Condition(1))), "not the first refused operation is named: {refused:?}");
        assert_eq!(self.get(&c).await, None, "part of a refused write was done");
    }

    async fn concurrent_additions_all_count(&self) {
        let key = self.key("counter", "a");
        let add = async || {
            for _ in 0..5 {
                self.write(update(&key, json!({}), &[("n", 1)])).await.unwrap();
            }
        };
        tokio::join!(add(), add(), add(), add());
        assert_eq!(self.attributes(&key).await, Some(json!({"n": 20})), "concurrent additions get lost");
    }

    async fn of_concurrent_first_writers_one_wins(&self) {
        let key = self.key("lease", "a");
        let take = async |who: u32| {
            let item = Item { key: key.clone(), attributes: map(json!({ "who": who })), expires: None };
            match self.write(Op::Put { item, condition: Some(Condition::Absent) }).await {
                Ok(()) => vec![who],
                Err(TableError::Condition(0)) => vec![],
                Err(error) => panic!("taking a lease: {error}"),
            }
        };
        let (a, b, c, d) = tokio::join!(take(1), take(2), take(3), take(4));
        let winners = [a, b, c, d].concat();
        assert_eq!(winners.len(), 1, "a lease was given to {winners:?}");
        assert_eq!(self.attributes(&key).await, Some(json!({ "who": winners[0] })), "another has the lease than was told so");
    }

    async fn fill(&self, check: &str, sorts: &[&str]) {
        for sorts in sorts.chunks(50) {
            self.table
                .write(sorts.iter().map(|sort| put(&self.key(check, sort), json!({ "at": sort }))).collect())
                .await
                .unwrap();
        }
    }

    /// All pages of a query, and the sort keys that they hold.
    async fn query(&self, check: &str, prefix: &str, after: Option<&str>, descending: bool, limit: usize) -> Vec<String> {
        let mut after = after.map(str::to_owned);
        let mut found = Vec::new();
        loop {
            let partition = self.key(check, "-").partition;
            let query = Query { partition: partition.clone(), prefix: prefix.to_owned(), after, descending, limit };
            let page = self.table.query(query).await.unwrap();
            assert!(page.items.len() <= limit, "a page has more items than its limit");
            for item in page.items {
                assert_eq!(item.key.partition, partition, "a query leaves its partition");
                assert_eq!(item.attributes["at"], json!(item.key.sort), "a query mixes up its items");
                found.push(item.key.sort);
            }
            assert!(found.len() <= 1000, "a query does not end");
            match page.next {
                Some(next) => after = Some(next),
                None => return found,
            }
        }
    }

    async fn a_query_is_ordered_by_bytes(&self) {
        // As bytes: capitals before small letters, ASCII before the rest, a text before those that it begins.
        let sorted = ["!", "#1", "#10", "#2", "A", "Z", "a", "a!", "a/", "aa", "b", "ä", "\u{fffd}", "\u{1f40b}"];
        let mut shuffled = sorted;
        shuffled.reverse();
        shuffled.swap(2, 9);
        self.fill("order", &shuffled).await;
        self.fill("order2", &["another partition"]).await;
        assert_eq!(self.query("order", "", None, false, 100).await, sorted, "the order is not that of bytes");
        let mut backwards = sorted;
        backwards.reverse();
        assert_eq!(self.query("order", "", None, true, 100).await, backwards, "the descending order is not that of bytes");
        assert!(self.query("nobody", "", None, false, 100).await.is_empty(), "an empty partition has items");
    }

    async fn a_query_keeps_to_its_prefix(&self) {
        self.fill("prefix", &["a", "a#", "a#1", "a#2", "a$", "aä", "b", "b%", "b%1", "bc", "é", "éa", "ê"]).await;
        let cases: [(&str, &[&str]); 6] = [
            ("a#", &["a#", "a#1", "a#2"]),
            ("a", &["a", "a#", "a#1", "a#2", "a$", "aä"]),
            ("b%", &["b%", "b%1"]),
            ("é", &["é", "éa"]),
            ("A", &[]),
            ("ê", &["ê"]),
        ];
        for (prefix, expected) in cases {
            assert_eq!(self.query("prefix", prefix, None, false, 100).await, expected, "below the prefix {prefix}");
            let backwards: Vec<_> = expected.iter().rev().copied().collect();
            assert_eq!(self.query("prefix", prefix, None, true, 100).await, backwards, "below the prefix {prefix}, descending");
        }
        assert_eq!(
            self.query("prefix", "a#", Some("a#1"), false, 9).await,
            ["a#2"],
            "`after` leaves the prefix or is included"
        );
        assert_eq!(self.query("prefix", "a#", Some("a#1"), true, 9).await, ["a#"], "`after` leaves the prefix or is included");
        assert_eq!(self.query("prefix", "a#", Some("a#11"), false, 9).await, ["a#2"], "`after` needs an item to be there");
    }

    async fn pages_join_without_gap_or_overlap(&self) {
        let sorts: Vec<_> = (0..60).map(|n| format!("p#{n:02}")).collect();
        self.fill("pages", &sorts.iter().map(String::as_str).collect::<Vec<_>>()).await;
        self.fill("pages", &["o", "q"]).await;
        let backwards: Vec<_> = sorts.iter().rev().cloned().collect();
        for limit in [1, 7, 20, 60, 1000] {
            assert_eq!(self.query("pages", "p#", None, false, limit).await, sorts, "in pages of {limit}");
            assert_eq!(self.query("pages", "p#", None, true, limit).await, backwards, "in pages of {limit}, descending");
        }
    }

    async fn impossible_writes_are_refused(&self) {
        let key = |sort: &str| self.key("impossible", sort);
        let a = key("a");
        let many: Vec<_> = (0..101).map(|n| put(&key(&n.to_string()), json!({}))).collect();
        let deep = (0..40).fold(json!(0), |value, _| json!([value]));
        let cases = [
            ("no operation", vec![]),
            ("101 operations", many),
            ("two operations on one key", vec![put(&a, json!({})), Op::Check { key: a.clone(), condition: Condition::Absent }]),
            ("an empty partition", vec![put(&Key::new("", "a"), json!({}))]),
            ("an empty sort key", vec![put(&key(""), json!({}))]),
            ("a partition of 2049 bytes", vec![put(&Key::new("p".repeat(2049), "a"), json!({}))]),
            ("a sort key of 1025 bytes", vec![put(&key(&"s".repeat(1025)), json!({}))]),
            ("an item of 410 KB", vec![put(&a, json!({ "text": "t".repeat(410 << 10) }))]),
            ("a fraction", vec![put(&a, json!({ "n": 0.5 }))]),
            ("a number beyond 64 bits, deep down", vec![put(&a, json!({ "map": {"list": [u64::MAX]} }))]),
            ("a fraction in an update", vec![update(&a, json!({ "n": 1.5 }), &[])]),
            ("an attribute both set and added to", vec![update(&a, json!({ "n": 1 }), &[("n", 1)])]),
            ("40 lists within each other", vec![put(&a, json!({ "deep": deep }))]),
        ];
        for (what, ops) in cases {
            let result = self.table.write(ops).await;
            assert!(matches!(result, Err(TableError::Invalid(_))), "{what}: {result:?}");
        }
        assert_eq!(self.get(&a).await, None, "an impossible write was done in part");
        assert!(self.table.get(&key("")).await.is_err(), "an empty sort key can be read");

        self.put(&a, json!({ "text": "t".repeat(300 << 10) })).await;
        let grown = self.write(update(&a, json!({ "more": "t".repeat(200 << 10) }), &[])).await;
        assert!(matches!(grown, Err(TableError::Invalid(_))), "an update makes an item larger than possible: {grown:?}");
    }

    async fn the_largest_possible_writes_are_taken(&self) {
        let key = |sort: &str| self.key("large", sort);
        let (long, large) = (key(&"s".repeat(1024)), key("large"));
        self.put(&long, json!({"n": 1})).await;
        assert_eq!(self.attributes(&long).await, Some(json!({"n": 1})), "a sort key of 1024 bytes");
        let attributes = json!({ "text": "t".repeat(399 << 10) });
        self.put(&large, attributes.clone()).await;
        assert_eq!(self.attributes(&large).await, Some(attributes), "an item of 399 KB");
        let hundred: Vec<_> = (0..100).map(|n| put(&key(&format!("n{n:02}")), json!({ "at": format!("n{n:02}") }))).collect();
        self.table.write(hundred).await.unwrap();
        assert_eq!(self.query("large", "n", None, false, 100).await.len(), 100, "a write of 100 operations");
    }

    async fn an_expired_item_is_gone_for_everybody(&self) {
        let key = |sort: &str| self.key("expired", sort);
        let expired = |sort: &str| {
            let expires = Timestamp::from_second(Timestamp::now().as_second() - 1).unwrap();
            let attributes = map(json!({"at": sort, "n": 7, "old": true}));
            Op::Put { item: Item { key: key(sort), attributes, expires: Some(expires) }, condition: None }
        };
        let sorts = ["get", "absent", "present", "equals", "below", "update", "delete"];
        self.table.write(sorts.map(expired).to_vec()).await.unwrap();
        self.fill("expired", &["alive"]).await;

        assert_eq!(self.get(&key("get")).await, None, "an expired item is got");
        assert_eq!(self.query("expired", "", None, false, 3).await, ["alive"], "a query returns expired items");
        assert_eq!(self.query("expired", "", None, true, 3).await, ["alive"], "a query returns expired items");
        let check = async |sort: &str, condition| self.write(Op::Check { key: key(sort), condition }).await;
        assert!(check("absent", Condition::Absent).await.is_ok(), "an expired lease can't be taken over");
        let present = check("present", Condition::Present).await;
        assert!(matches!(present, Err(TableError::Condition(0))), "an expired item counts as present: {present:?}");
        let equals = check("equals", Condition::Equals("n".to_owned(), json!(7))).await;
        assert!(matches!(equals, Err(TableError::Condition(0))), "an expired item counts as equal: {equals:?}");
        assert!(check("below", Condition::AbsentOrBelow("n".to_owned(), 0)).await.is_ok(), "an expired number counts");
        let delete = Op::Delete { key: key("delete"), condition: Some(Condition::Present) };
        assert!(matches!(self.write(delete).await, Err(TableError::Condition(0))), "an expired item can be deleted");

        self.write(update(&key("update"), json!({"new": true}), &[("n", 1)])).await.unwrap();
        let item = self.get(&key("update")).await.unwrap_or_else(|| panic!("an update of an expired item makes none"));
        assert_eq!(Value::Object(item.attributes), json!({"new": true, "n": 1}), "an update goes on from an expired item");
        assert_eq!(item.expires, None, "an update of an expired item takes over its expiry");
    }

    async fn an_item_expires_by_itself(&self) {
        let key = self.key("expires", "a");
        let expires = Timestamp::from_second(Timestamp::now().as_second() + 3).unwrap();
        let attributes = map(json!({"at": "a"}));
        self.write(Op::Put { item: Item { key: key.clone(), attributes, expires: Some(expires) }, condition: None })
            .await
            .unwrap();
        assert!(self.get(&key).await.is_some(), "an item expires too soon");
        assert_eq!(self.query("expires", "", None, false, 1).await, ["a"], "an item expires too soon");
        tokio::time::sleep(Duration::from_millis(3100)).await;
        assert_eq!(self.get(&key).await, None, "an item does not expire: a crashed worker's lease would stand for ever");
        assert!(self.query("expires", "", None, false, 1).await.is_empty(), "an item does not expire for queries");
        self.write(Op::Check { key, condition: Condition::Absent }).await.unwrap();
    }
}

fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("not a map: {other}"),
    }
}

fn item(key: &Key) -> Item {
    Item { key: key.clone(), attributes: Map::new(), expires: None }
}

fn put(key: &Key, attributes: Value) -> Op {
    Op::Put { item: Item { key: key.clone(), attributes: map(attributes), expires: None }, condition: None }
}

fn update(key: &Key, set: Value, add: &[(&str, i64)]) -> Op {
    let add: BTreeMap<_, _> = add.iter().map(|(name, amount)| ((*name).to_owned(), *amount)).collect();
    Op::Update { key: key.clone(), set: map(set), add, expires: None, condition: None }
}

fn conditional_update(key: &Key, condition: &Condition) -> Op {
    let condition = Some(condition.clone());
    Op::Update { key: key.clone(), set: Map::new(), add: BTreeMap::new(), expires: None, condition }
}

fn in_an_hour() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second() + 3600).unwrap_or(Timestamp::MAX)
}
