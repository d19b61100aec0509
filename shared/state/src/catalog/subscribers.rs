//! Whom the catalogue says to tell.

use std::{collections::HashSet, sync::Arc};

use transship_model::{Concern, InstanceName, Subscription, SubscriptionName, TaskHead};

use super::Snapshot;

impl Snapshot {
    /// A subscription by name, enabled or not. An instance's own `notify` is one, by the name that begins with `instance:`.
    pub fn subscription(&self, name: &SubscriptionName) -> Option<Arc<Subscription>> {
        match name.instance() {
            Some(instance) => self.own(&instance).map(Arc::new),
            None => self.subscriptions.get(name).cloned(),
        }
    }

    /// All subscriptions, in the order of their names, what instances' own `notify` stand for among them.
    pub fn subscriptions(&self) -> impl Iterator<Item = Arc<Subscription>> {
        let own = self.instances.keys().filter_map(|name| self.own(name)).map(Arc::new);
        let mut all: Vec<_> = self.subscriptions.values().cloned().chain(own).collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all.into_iter()
    }

    /// The subscriptions that are told anything about this. Of the webhooks of source and target only the first is told where both
    /// have the same.
    pub fn subscribers(&self, about: Concern<'_>) -> Vec<Arc<Subscription>> {
        let mut urls = HashSet::new();
        let ends = std::iter::once(about.instance).chain(about.target);
        let own = ends.filter_map(|name| self.own(name)).filter(|own| urls.insert(own.webhook.url.clone())).map(Arc::new);
        let named = self.subscriptions.values().filter(|subscription| subscription.concerns(about)).cloned();
        own.chain(named).collect()
    }

    /// The instance that a task copies to. Of a rule that is gone it is not known.
    pub fn target_of(&self, task: &TaskHead) -> Option<&InstanceName> {
        self.rule(task.id.rule()).map(|rule| &rule.target.instance)
    }

    fn own(&self, instance: &InstanceName) -> Option<Subscription> {
        let notify = self.instance(instance)?.notify.clone()?;
        Some(Subscription::of_instance(instance, notify))
    }
}
