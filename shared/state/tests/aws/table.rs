//! What only the DynamoDB adapter promises, and the repositories on it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use transship_state::{Condition, Item, Key, Op, Table, TableError};

use crate::cloud::Cloud;

fn map(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn expired(key: &Key) -> Op {
    let expires = Timestamp::from_second(Timestamp::now().as_second() - 1).unwrap();
    Op::Put {
        item: Item { key: key.clone(), attributes: map(json!({"n": 7, "old": 1})), expires: Some(expires) },
        condition: None,
    }
}

fn update(key: &Key, condition: Option<Condition>) -> Op {
    let (set, add) = (map(json!({"new": 1})), BTreeMap::from([("n".to_owned(), 1)]));
    Op::Update { key: key.clone(), set, add, expires: None, condition }
}

/// Would break: a task that comes again after its log has expired goes on with the old one's counters, or its events are lost for
/// as long as DynamoDB takes to delete the old item, which is days.
#[tokio::test]
async fn in_a_transaction_too_an_update_of_an_expired_item_begins_anew() {
    let table = Cloud::start().await;
    let table = table.table().await;
    let [a, b, c] = ["a", "b", "c"].map(|sort| Key::new("p", sort));
    table.write(vec![expired(&a), expired(&b)]).await.unwrap();
    let live = Item { key: c.clone(), attributes: map(json!({"n": 7})), expires: None };
    table.write(vec![Op::Put { item: live, condition: None }]).await.unwrap();

    // One that is there in truth refuses the write, whatever expired items do beside it.
    let refused = table.write(vec![update(&a, None), update(&c, Some(Condition::Absent))]).await;
    assert!(matches!(refused, Err(TableError::Condition(1))), "{refused:?}");
    let refused = table.write(vec![update(&a, None), update(&b, Some(Condition::Present))]).await;
    assert!(matches!(refused, Err(TableError::Condition(1))), "{refused:?}");
    assert_eq!(table.get_many(&[a.clone(), b.clone()]).await.unwrap(), [None, None]);

    let below = Condition::AbsentOrBelow("n".to_owned(), 0);
    table.write(vec![update(&a, Some(Condition::Absent)), update(&b, Some(below)), update(&c, None)]).await.unwrap();
    let found = table.get_many(&[a, b, c]).await.unwrap().into_iter().map(|item| Value::Object(item.unwrap().attributes));
    let anew = json!({"new": 1, "n": 1});
    assert_eq!(found.collect::<Vec<_>>(), [anew.clone(), anew, json!({"new": 1, "n": 8})]);
}

/// Would break: a full run, whose batches name hundreds of resources, has a call for each or is refused for asking for too many.
#[tokio::test]
async fn many_items_are_read_in_calls_of_a_hundred() {
    let table = Cloud::start().await;
    let table = table.table().await;
    let keys: Vec<_> = (0..250).map(|n| Key::new("p", format!("{n:03}"))).collect();
    let put = |key: &Key| Op::Put { item: Item { key: key.clone(), attributes: Map::new(), expires: None }, condition: None };
    for chunk in keys.iter().step_by(2).collect::<Vec<_>>().chunks(100) {
        table.write(chunk.iter().map(|key| put(key)).collect()).await.unwrap();
    }
    let found = table.get_many(&keys).await.unwrap();
    assert_eq!(found.len(), 250);
    for (n, (key, item)) in keys.iter().zip(&found).enumerate() {
        assert_eq!(item.as_ref().map(|item| &item.key), (n % 2 == 0).then_some(key));
    }
}

/// Would break: an update of nothing, beside others, makes no item, or gives one a life that ends.
#[tokio::test]
async fn an_update_of_nothing_makes_an_item_that_stays() {
    let table = Cloud::start().await;
    let table = table.table().await;
    let [bare, other] = ["bare", "other"].map(|sort| Key::new("p", sort));
    let nothing = || Op::Update { key: bare.clone(), set: Map::new(), add: BTreeMap::new(), expires: None, condition: None };
    for _ in 0..2 {
        table.write(vec![nothing(), update(&other, None)]).await.unwrap();
        let item = table.get(&bare).await.unwrap().unwrap();
        assert_eq!((item.attributes, item.expires), (Map::new(), None));
    }
}
