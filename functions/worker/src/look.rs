//! Looking at what was pushed without a tag of its own: does it belong to something that targets have?

use jiff::Timestamp;
use transship_model::{AttachmentKind, Digest, LookJob, Place, PushEvent, Reference, Repository, Rule, TaskHead, Trigger};
use transship_registry::{Endpoint, Error as RegistryError, Registry};
use transship_state::{Snapshot, dispatch};

use crate::{Worker, copy::FRESH, trouble::Trouble};

/// What was pushed, and what it belongs to.
struct Attachment {
    place: Place,
    subject: Digest,
    /// For the referrers tag: what it lists.
    referrers: Option<Vec<Digest>>,
    /// For a cosign tag: what it points to.
    pointed_to: Option<Digest>,
}

impl Worker {
    /// Children of an index and referrers are pushed by digest and can't be told apart without the registry; attachment tags name
    /// their subject. If a target has the subject and lacks the attachment, a task brings it there.
    pub(crate) async fn look(&self, job: &LookJob) -> Result<(), Trouble> {
        let catalog = self.catalog.snapshot().await?;
        let event = &job.event;
        let Some(place) = event.place() else { return Ok(()) };
        let mut rules = catalog.rules_from(&Place { reference: Reference::Digest(Digest::of(b"")), ..place.clone() });
        rules.retain(|(rule, _)| rule.referrers);
        if rules.is_empty() {
            return Ok(());
        }
        let source = self.registries.registry(&catalog, &event.instance).await?;
        let Some(attachment) = self.read_attachment(&source, event, place).await? else { return Ok(()) };
        let mut trouble = None;
        for (rule, to) in rules {
            // One target that does not answer keeps nothing from the others.
            if let Err(error) = self.offer(&catalog, event, &attachment, rule, &to).await {
                tracing::warn!(rule = rule.path(), %error, "a look at a target");
                trouble = Some(error);
            }
        }
        trouble.map_or(Ok(()), Err)
    }

    /// What an event is about, if it is an attachment that is (still) there.
    async fn read_attachment(&self, source: &Registry, event: &PushEvent, place: Place) -> Result<Option<Attachment>, Trouble> {
        match event.tag.as_ref().and_then(transship_model::Tag::subject) {
            Some((subject, AttachmentKind::Referrers)) => {
                let referrers = source.referrers(&event.repository, &subject).await?;
                let referrers = Some(referrers.into_iter().map(|descriptor| descriptor.digest).collect());
                Ok(Some(Attachment { place, subject, referrers, pointed_to: None }))
            }
            Some((subject, AttachmentKind::Cosign)) => {
                let head = source.head_manifest(&event.repository, &place.reference).await?;
                // As with any tag: it may be set a moment after its push was told.
                let shown = head.as_ref().map(|head| &head.digest);
                let is_fresh = Timestamp::now().duration_since(event.received) < FRESH;
                if is_fresh && event.digest.is_some() && shown != event.digest.as_ref() {
                    return Err(Trouble::Early);
                }
                Ok(head.map(|head| Attachment { place, subject, referrers: None, pointed_to: Some(head.digest) }))
            }
            None => {
                let subject =
                    match self.copier.resolve(&Endpoint::new(source, event.repository.clone()), &place.reference).await {
                        Ok(resolved) => resolved.and_then(|resolved| resolved.subject().cloned()),
                        Err(RegistryError::Schema1(_)) => None,
                        Err(error) => return Err(error.into()),
                    };
                Ok(subject.map(|subject| Attachment { place, subject, referrers: None, pointed_to: None }))
            }
        }
    }

    /// Sends the copy of an attachment to a target that has the subject and lacks the attachment.
    async fn offer(
        &self,
        catalog: &Snapshot,
        event: &PushEvent,
        attachment: &Attachment,
        rule: &Rule,
        to: &Repository,
    ) -> Result<(), Trouble> {
        let target = self.registries.registry(catalog, &rule.target.instance).await?;
        let has_subject = target.head_manifest(to, &Reference::Digest(attachment.subject.clone())).await?.is_some();
        if !has_subject || attachment.is_at(&target, to).await? {
            return Ok(());
        }
        let task = TaskHead {
            id: event.task(rule.id, &event.received.to_string()),
            instance: rule.source.instance.clone(),
            rule: rule.name.clone(),
            trigger: Trigger::Attachment { resource: attachment.place.name() },
            created: event.received,
        };
        let target = dispatch::target_place(rule, &attachment.place, to);
        let (job, found) = dispatch::copy(task, attachment.place.clone(), target, Some(attachment.subject.clone()));
        self.jobs.send(&[job]).await?;
        self.events.send(&[found]).await?;
        Ok(())
    }
}

impl Attachment {
    async fn is_at(&self, target: &Registry, repository: &Repository) -> Result<bool, Trouble> {
        if let Some(wanted) = &self.referrers {
            let there = target.referrers(repository, &self.subject).await?;
            return Ok(wanted.iter().all(|digest| there.iter().any(|descriptor| descriptor.digest == *digest)));
        }
        let there = target.head_manifest(repository, &self.place.reference).await?;
        Ok(there.is_some_and(|there| self.pointed_to.as_ref().is_none_or(|digest| *digest == there.digest)))
    }
}
