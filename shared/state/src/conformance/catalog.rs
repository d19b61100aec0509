//! What the catalogue promises to those who change it at the same time, over any table.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::{Map, Value};
use transship_model::{Instance, Owner, Rule};

use super::unique;
use crate::{Catalog, Change, Condition, Entry, Item, Key, Op, StateError, Table};

/// Runs all checks against two catalogues over one store, as two processes have them. What is in the catalogue is lost.
pub async fn catalog(one: Arc<dyn Table>, other: Arc<dyn Table>) {
    let fixture = Fixture { table: one.clone(), one: Catalog::new(one), other: Catalog::new(other) };
    fixture.what_one_changes_the_other_sees_at_once().await;
    fixture.of_those_who_change_one_revision_one_wins().await;
    fixture.rules_made_at_once_have_ids_of_their_own_that_never_come_again().await;
    fixture.no_rule_names_an_instance_that_goes_at_the_same_time().await;
    fixture.what_is_written_besides_is_written_with_the_change_or_not_at_all().await;
    fixture.a_file_keeps_to_its_own().await;
}

struct Fixture {
    table: Arc<dyn Table>,
    one: Catalog,
    other: Catalog,
}

/// What `decide` may say.
#[derive(Debug)]
enum Refusal {
    Revision,
    Named,
    NotThere,
    #[expect(dead_code, reason = "a failed check prints it")]
    State(StateError),
}

impl From<StateError> for Refusal {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

fn instance(name: &str) -> Instance {
    let endpoint = format!("https://{name}.test");
    serde_json::from_value(serde_json::json!({ "name": name, "endpoint": endpoint, "kind": "oci" })).unwrap()
}

fn rule(name: &str, target: &str) -> Rule {
    let rule = serde_json::json!({
        "id": 0, "revision": 0, "name": name,
        "source": { "instance": "a", "namespace": "team" }, "target": { "instance": target },
    });
    serde_json::from_value(rule).unwrap()
}

impl Fixture {
    /// The instances a and b, no rules.
    async fn clear(&self) {
        // Whose what is there may be, it goes.
        for owner in [Owner::File("x".into()), Owner::Api] {
            self.one.carry_out(self.one.plan(&owner, &[], &[], false).await.unwrap()).await.unwrap();
        }
        self.one.replace(&[instance("a"), instance("b")], &[]).await.unwrap();
    }

    /// The catalogue of each process by turns.
    fn turn(&self, n: usize) -> &Catalog {
        if n.is_multiple_of(2) { &self.one } else { &self.other }
    }

    async fn put(&self, catalog: &Catalog, rule: &Rule) -> u64 {
        let put = async || catalog.edit(|_, draft| Ok::<_, StateError>(draft.put_rule(rule, &Owner::Api, true))).await;
        put().await.unwrap().1.revision
    }

    async fn what_one_changes_the_other_sees_at_once(&self) {
        self.clear().await;
        let (mut seen, a) = (Vec::new(), "a".parse().unwrap());
        for n in 0..6 {
            let description = if n < 3 { format!("version {n}") } else { "the same".to_owned() };
            let revision = self.put(self.turn(n), &Rule { description: description.clone(), ..rule("r", "b") }).await;
            let snapshot = self.turn(n + 1).snapshot().await.unwrap();
            let found = snapshot.rule_named(&a, &"r".parse().unwrap()).unwrap();
            assert_eq!(
                (&found.description, found.revision),
                (&description, revision),
                "a change is not seen by another process"
            );
            let stamp = snapshot.stamp(&Entry::of_rule(found)).unwrap();
            assert_eq!((stamp.revision, &stamp.owner), (revision, &Some(Owner::Api)));
            seen.push(revision);
        }
        assert_eq!(seen, [1, 2, 3, 4, 4, 4], "what changes nothing makes no revision");
        let fresh = Catalog::new(self.table.clone()).snapshot().await.unwrap();
        let kept = self.one.snapshot().await.unwrap();
        let rules = |snapshot: &crate::Snapshot| snapshot.rules().map(|rule| (**rule).clone()).collect::<Vec<_>>();
        assert_eq!(rules(&fresh), rules(&kept), "what is kept in memory after a change is not what is in the table");
    }

    async fn of_those_who_change_one_revision_one_wins(&self) {
        self.clear().await;
        self.put(&self.one, &rule("r", "b")).await;
        let change = async |n: usize| {
            let changed = Rule { description: format!("by {n}"), ..rule("r", "b") };
            let decide = |snapshot: &crate::Snapshot, draft: &mut crate::Draft<'_>| {
                let revision = snapshot.stamp(&Entry::of_rule(&changed)).map(|stamp| stamp.revision);
                if revision != Some(1) {
                    return Err(Refusal::Revision);
                }
                draft.put_rule(&changed, &Owner::Api, false);
                Ok(n)
            };
            self.turn(n).edit(decide).await.map(|(_, n)| n)
        };
        let results = futures_util::future::join_all((0..12).map(change)).await;
        let won: Vec<usize> = results.iter().filter_map(|result| result.as_ref().ok().copied()).collect();
        assert!(results.iter().all(|result| matches!(result, Ok(_) | Err(Refusal::Revision))), "{results:?}");
        assert_eq!(won.len(), 1, "two changes of one revision both count, so that one of them is lost");
        let snapshot = self.other.snapshot().await.unwrap();
        assert_eq!(snapshot.rules().next().unwrap().description, format!("by {}", won[0]));
    }

    async fn rules_made_at_once_have_ids_of_their_own_that_never_come_again(&self) {
        self.clear().await;
        let mut known = BTreeSet::new();
        for _ in 0..2 {
            let make = async |n: usize| self.put(self.turn(n), &rule(&format!("r{n}"), "b")).await;
            futures_util::future::join_all((0..12).map(make)).await;
            let snapshot = self.one.snapshot().await.unwrap();
            let ids: BTreeSet<u64> = snapshot.rules().map(|rule| rule.id.0).collect();
            assert_eq!(ids.len(), 12, "a rule that was made is lost, or two have one ID");
            assert!(known.is_disjoint(&ids), "the ID of a rule that was deleted is used again");
            assert_eq!(
                snapshot.rules().filter(|rule| snapshot.begins(rule).is_some()).count(),
                12,
                "a new rule's first run is forgotten"
            );
            known.extend(ids);
            let delete = async |n: usize| {
                let entry = Entry::of_rule(&rule(&format!("r{n}"), "b"));
                let gone = |_: &crate::Snapshot, draft: &mut crate::Draft<'_>| {
                    draft.delete(&entry);
                    Ok::<_, StateError>(())
                };
                self.turn(n).edit(gone).await.unwrap();
            };
            futures_util::future::join_all((0..12).map(delete)).await;
            assert_eq!(self.other.snapshot().await.unwrap().rules().count(), 0, "a rule that was deleted is still there");
        }
    }

    async fn no_rule_names_an_instance_that_goes_at_the_same_time(&self) {
        for n in 0..8 {
            self.clear().await;
            let (b, name) = (Entry::Instance("b".parse().unwrap()), "b".parse().unwrap());
            let delete = self.turn(n).edit(|snapshot, draft| {
                if snapshot.rules_naming(&name).next().is_some() {
                    return Err(Refusal::Named);
                }
                draft.delete(&b);
                Ok(())
            });
            let make = self.turn(n + 1).edit(|snapshot, draft| {
                snapshot.instance(&name).ok_or(Refusal::NotThere)?;
                draft.put_rule(&rule("r", "b"), &Owner::Api, false);
                Ok::<_, Refusal>(())
            });
            let (deleted, made) = futures_util::join!(delete, make);
            assert!(
                deleted.is_ok() != made.is_ok(),
                "{:?} {:?}: a rule names an instance that is gone",
                deleted.err(),
                made.err()
            );
        }
    }

    async fn what_is_written_besides_is_written_with_the_change_or_not_at_all(&self) {
        self.clear().await;
        let key = Key::new(format!("conformance/{}/catalog", unique()), "note");
        let note = Op::Put {
            item: Item { key: key.clone(), attributes: Map::from_iter([("who".to_owned(), Value::from("me"))]), expires: None },
            condition: Some(Condition::Absent),
        };
        let change = async |catalog: &Catalog, target: &str| {
            let decide = |_: &crate::Snapshot, draft: &mut crate::Draft<'_>| {
                draft.also(note.clone());
                Ok::<_, StateError>(draft.put_rule(&rule("r", target), &Owner::Api, false))
            };
            catalog.edit(decide).await.map(|(_, saved)| saved.change)
        };
        assert_eq!(change(&self.one, "b").await.unwrap(), Some(Change::Created));
        assert!(self.table.get(&key).await.unwrap().is_some(), "what belongs to a change is not written with it");
        let refused = change(&self.other, "a").await;
        assert!(matches!(refused, Err(StateError::Contended(_))), "{refused:?}");
        let snapshot = self.one.snapshot().await.unwrap();
        assert_eq!(
            snapshot.rules().next().unwrap().target.instance.as_str(),
            "b",
            "a change is there without what belongs to it"
        );
    }

    async fn a_file_keeps_to_its_own(&self) {
        self.clear().await;
        self.put(&self.one, &rule("by-hand", "b")).await;
        let file = Owner::File("/etc/sync.yaml".into());
        let plan = async |rules: &[Rule]| self.other.plan(&file, &[instance("c")], rules, true).await.unwrap();
        let rules = async || {
            let snapshot = self.one.snapshot().await.unwrap();
            snapshot.rules().map(|rule| rule.name.to_string()).collect::<Vec<_>>()
        };
        let made = plan(&[rule("of-file", "c"), rule("of-file-too", "c")]).await;
        assert!(made.refusals().is_empty(), "{:?}", made.refusals());
        self.other.carry_out(made).await.unwrap();
        assert_eq!(rules().await, ["by-hand", "of-file", "of-file-too"], "a file has changed what is the API's");
        self.other.carry_out(plan(&[rule("of-file", "c")]).await).await.unwrap();
        assert_eq!(rules().await, ["by-hand", "of-file"], "what a file does not name any more stays");

        let taken = plan(&[rule("by-hand", "c"), rule("of-file", "c")]).await;
        let refusals = taken.refusals().concat();
        for part in ["rule a/by-hand", "/etc/sync.yaml", "the API"] {
            assert!(refusals.contains(part), "{part:?} is not in {refusals}");
        }
        self.put(&self.one, &rule("to-c", "c")).await;
        let gone = self.other.plan(&file, &[], &[], true).await.unwrap();
        let refusals = gone.refusals().concat();
        assert!(refusals.contains("instance c is to be deleted") && refusals.contains("rule a/to-c"), "{refusals}");
        self.clear().await;
    }
}
