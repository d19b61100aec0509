//! Which of ten thousand rules an event meets.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use transship_model::{Reference, Repository, Rule, RuleId, RuleIndex, Source, Tag, Target};

use crate::figures::Figures;

const RULES: usize = 10_000;
const EVENTS: usize = 1_000;
const TARGET: Option<Duration> = Some(Duration::from_millis(1));

/// What the rules have in common: namespace, repository pattern and tag pattern of each, and the events that come.
struct Shape {
    name: &'static str,
    rule: fn(usize) -> [String; 3],
    /// Repository and tag of an event.
    event: fn(usize) -> [String; 2],
}

const SHAPES: [Shape; 9] = [
    Shape {
        name: "namespaces of their own",
        rule: |i| [format!("team-{i}"), ".*".into(), ".*".into()],
        event: |i| [format!("team-{i}/app"), "v1".into()],
    },
    Shape {
        name: "prefixes",
        rule: |i| ["team".into(), format!("app-{i}-.*"), ".*".into()],
        event: |i| [format!("team/app-{i}-web"), "v1".into()],
    },
    Shape {
        name: "suffixes",
        rule: |i| ["team".into(), format!(".*-app-{i}"), ".*".into()],
        event: |i| [format!("team/web-app-{i}"), "v1".into()],
    },
    Shape {
        name: "a common prefix, suffixes",
        rule: |i| ["team".into(), format!("app-[a-z]+-{i}"), ".*".into()],
        event: |i| [format!("team/app-web-{i}"), "v1".into()],
    },
    Shape {
        name: "something in the middle",
        rule: |i| ["team".into(), format!(".*-app-{i}-.*"), ".*".into()],
        event: |i| [format!("team/web-app-{i}-eu"), "v1".into()],
    },
    Shape {
        name: "no literal at all",
        // Half of them meet a name, as far as their first letters and last digits go.
        rule: |i| {
            let letter = |i: usize| char::from(b'm' + (i % 14) as u8);
            let (a, b, c, d) = (letter(i), letter(i / 14), i / 196 % 9, i / 1764 % 9);
            ["team".into(), format!("[a-{a}][a-{b}][a-z0-9-]*[{c}-9a-k][{d}-9a-k]"), ".*".into()]
        },
        event: |i| [format!("team/{}-{}8", ["app", "cache", "logs"][i % 3], 10 + i), "v1".into()],
    },
    Shape {
        name: "tags with prefixes",
        rule: |i| ["team".into(), ".*".into(), format!(r"v{i}\.\d+")],
        event: |i| ["team/app".into(), format!("v{i}.7")],
    },
    Shape {
        name: "tags with suffixes",
        rule: |i| ["team".into(), ".*".into(), format!(r"\d+-build{i}")],
        event: |i| ["team/app".into(), format!("7-build{i}")],
    },
    Shape {
        name: "all of them match",
        rule: |_| ["team".into(), ".*".into(), ".*".into()],
        event: |i| [format!("team/app-{i}"), "v1".into()],
    },
];

pub(crate) fn measure(figures: &mut Figures) {
    let [build, prod] = ["build", "prod"].map(|name| name.parse().expect("a name"));
    for shape in SHAPES {
        let index = RuleIndex::new((0..RULES).map(|i| Arc::new(rule(i, &(shape.rule)(i)))));
        let events = (0..2 * EVENTS).map(|i| (shape.event)(i * 3)).map(|[repository, tag]| {
            let tag: Tag = tag.parse().expect("a tag");
            (repository.parse().expect("a repository"), tag.clone(), Reference::Tag(tag))
        });
        let events: Vec<(Repository, Tag, Reference)> = events.collect();
        // Warm: the expressions that are needed have been compiled, by other events of the same kind.
        let (warm_up, measured) = events.split_at(EVENTS);
        let mut time = |what: &str, find: &dyn Fn(&(Repository, Tag, Reference)) -> usize| {
            assert!(warm_up.iter().map(find).sum::<usize>() >= EVENTS, "{}: every event meets a rule", shape.name);
            // The best of three, because other processes' time slices are longer than what is measured.
            let one = |event| {
                let began = Instant::now();
                black_box(find(event));
                began.elapsed()
            };
            let best = |event| (0..3).map(|_| one(event)).min().unwrap_or_default();
            figures.times(&format!("10,000 rules, {}{what}", shape.name), measured.iter().map(best).collect(), TARGET);
        };
        time("", &|(repository, tag, _)| index.of_tag(&build, repository, tag).len());
        // What the webhook asks next: is the event's tag, or its target, written by rules? Here all write one instance.
        time(", backwards", &|(repository, _, reference)| index.that_write(&prod, repository, reference).count());
    }
}

fn rule(i: usize, [namespace, repository, tag]: &[String; 3]) -> Rule {
    Rule {
        id: RuleId(i as u64 + 1),
        revision: 1,
        name: format!("rule-{i}").parse().expect("a name"),
        description: String::new(),
        source: Source {
            instance: "build".parse().expect("a name"),
            namespace: namespace.parse().expect("a namespace"),
            repository: repository.parse().expect("a pattern"),
            tag: tag.parse().expect("a pattern"),
            types: Vec::new(),
        },
        target: Target { instance: "prod".parse().expect("a name"), namespace: None, flatten: false },
        overwrite: false,
        propagate_deletions: false,
        referrers: true,
        schedule: None,
        enabled: true,
    }
}
