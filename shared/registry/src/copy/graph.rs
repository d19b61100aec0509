//! The manifests below a manifest: which of them the target lacks, and in which order they are put.

use std::collections::{HashMap, HashSet};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use transship_model::{Digest, Reference};

use super::{Copier, MANIFESTS_AT_ONCE, Resolved, Way, memory::Belief, parse};
use crate::{Descriptor, Error, Manifest, manifest::Parsed};

/// How deep indexes may be nested. Two levels are seen in practice.
pub(super) const MAX_DEPTH: usize = 8;
/// How many manifests may lie below one.
const MAX_MANIFESTS: usize = 2000;
/// How many bytes they may have together: they are in memory until they are put.
const MAX_BYTES: usize = 64 << 20;
/// How many blobs they may need together.
const MAX_BLOBS: usize = 100_000;

/// A manifest that is to be put.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) manifest: Manifest,
    pub(super) parsed: Parsed,
}

/// What the target lacks.
#[derive(Debug, Default)]
pub(super) struct Graph {
    /// Each once.
    blobs: Vec<Descriptor>,
    named: HashSet<Digest>,
    nodes: Vec<Node>,
}

impl Copier {
    /// Walks down from a manifest, level by level, each digest once. A manifest proper that the target has is not looked into:
    /// registries check that its blobs are there before they take it. An index is, because many take one whose children are missing.
    pub(super) async fn missing(&self, way: &Way<'_>, resolved: &Resolved, belief: Belief) -> Result<Graph, Error> {
        let source = way.source;
        let too_much =
            |problem: String| source.failure("reading", &Reference::Digest(resolved.digest().clone()), problem).refused();
        let at_hand: HashMap<&Digest, &Manifest> = resolved.below.iter().map(|m| (&m.descriptor.digest, m)).collect();
        let mut graph = Graph::default();
        let (mut seen, mut bytes) = (HashSet::from([resolved.digest().clone()]), 0);
        graph.need(&resolved.parsed);
        let mut level: Vec<Descriptor> = resolved.parsed.children().cloned().collect();
        for depth in 1.. {
            level.retain(|child| seen.insert(child.digest.clone()));
            if level.is_empty() {
                break;
            }
            if depth > MAX_DEPTH {
                return Err(too_much(format!("indexes nested more than {MAX_DEPTH} deep")));
            }
            if seen.len() > MAX_MANIFESTS {
                return Err(too_much(format!("more than {MAX_MANIFESTS} manifests")));
            }
            let mut next = Vec::new();
            let mut children = stream::iter(std::mem::take(&mut level))
                .map(|child| self.child(way, child, &at_hand, belief))
                .buffer_unordered(MANIFESTS_AT_ONCE);
            while let Some(child) = children.try_next().await? {
                let Some(Child { node, present }) = child else { continue };
                bytes += node.manifest.bytes.len();
                if bytes > MAX_BYTES {
                    return Err(too_much(format!("more than {} MiB of manifests", MAX_BYTES >> 20)));
                }
                next.extend(node.parsed.children().cloned());
                graph.need(&node.parsed);
                if graph.blobs.len() > MAX_BLOBS {
                    return Err(too_much(format!("more than {MAX_BLOBS} blobs")));
                }
                if !present {
                    graph.nodes.push(Node { parsed: node.parsed.without_layers(), ..node });
                }
            }
            level = next;
        }
        Ok(graph)
    }

    /// A child as the source has it; `None` if the target has it and there is nothing to look into.
    async fn child(
        &self,
        way: &Way<'_>,
        child: Descriptor,
        at_hand: &HashMap<&Digest, &Manifest>,
        belief: Belief,
    ) -> Result<Option<Child>, Error> {
        let Way { source, target, empty, .. } = *way;
        let reference = Reference::Digest(child.digest.clone());
        let there = match empty {
            // Only what this very copy has brought can be there.
            true => self.memory.has(target, &child).then(|| child.clone()),
            // Whatever it says, it is put.
            false if belief == Belief::None => None,
            false => target.registry.head_manifest_as(target.push(), &target.repository, &reference).await?,
        };
        let present = belief == Belief::Memory && there.is_some();
        if let (true, Some(there)) = (present, there)
            && !is_index(&there)
        {
            return Ok(None);
        }
        let manifest = match at_hand.get(&child.digest) {
            Some(manifest) => (*manifest).clone(),
            None => source
                .registry
                .get_manifest(&source.repository, &reference)
                .await?
                .ok_or_else(|| source.failure("reading", &reference, "an index names it, but it is not there").refused())?,
        };
        let parsed = parse(source, &reference, &manifest.bytes)?;
        // What an index says about its child is what clients go by.
        if manifest.bytes.len() as u64 != child.size {
            let problem = format!("it has {} bytes, and an index says {}", manifest.bytes.len(), child.size);
            return Err(source.failure("reading", &reference, problem).refused());
        }
        Ok(Some(Child { node: Node { manifest, parsed }, present }))
    }
}

struct Child {
    node: Node,
    /// Whether the target has it: it is looked into and not put.
    present: bool,
}

fn is_index(descriptor: &Descriptor) -> bool {
    descriptor.media_type.contains("index") || descriptor.media_type.contains("list")
}

impl Graph {
    fn need(&mut self, parsed: &Parsed) {
        self.blobs.extend(parsed.blobs().filter(|blob| self.named.insert(blob.digest.clone())).cloned());
    }

    /// The blobs that are needed, the greatest first: the last to end should be a small one.
    pub(super) fn blobs(&self) -> Vec<Descriptor> {
        let mut blobs = self.blobs.clone();
        blobs.sort_by_key(|blob| std::cmp::Reverse(blob.size));
        blobs
    }

    /// The manifests in batches, each of which refers to those before it only. Digests can't refer to each other in a circle;
    /// should they seem to, what is left is put in any order and the registry has the last word.
    pub(super) fn children_first(self) -> Vec<Vec<Node>> {
        let mut batches = Vec::new();
        let mut waiting = self.nodes;
        while !waiting.is_empty() {
            let left: HashSet<Digest> = waiting.iter().map(|node| node.manifest.descriptor.digest.clone()).collect();
            let is_ready = |node: &Node| !node.parsed.children().any(|child| left.contains(&child.digest));
            let (ready, rest): (Vec<Node>, Vec<Node>) = waiting.into_iter().partition(is_ready);
            if ready.is_empty() {
                batches.push(rest);
                break;
            }
            batches.push(ready);
            waiting = rest;
        }
        batches
    }
}
