//! Putting back what an older copy had overwritten, where rules lead both ways.

use jiff::Timestamp;
use transship_model::{Place, Reference, RestoreJob, Trail, Written};

use crate::{Worker, trouble::Trouble};

impl Worker {
    /// A job to put something back: what it tells of is noted first, because that may be what is to be put back.
    pub(crate) async fn restore_job(&self, job: &RestoreJob) -> Result<(), Trouble> {
        self.note(&job.place, job.told.as_ref()).await?;
        self.restore(&job.place).await
    }

    /// Sets a tag to the newest content that it has had, if an older one stands there. Only who holds the place's message group
    /// may do this.
    pub(crate) async fn restore(&self, place: &Place) -> Result<(), Trouble> {
        let origin = self.origins.get(place).await?;
        if origin.newest().is_none() {
            return Ok(());
        }
        let catalog = self.catalog.snapshot().await?;
        let endpoint = self.registries.endpoint(&catalog, place).await?;
        let Some(current) = endpoint.registry.head_manifest(&endpoint.repository, &place.reference).await? else {
            return Ok(());
        };
        let Some((digest, version)) = origin.overwritten(&current.digest) else { return Ok(()) };
        let (digest, version) = (digest.clone(), version.clone());
        let manifest = endpoint.registry.get_manifest(&endpoint.repository, &Reference::Digest(digest.clone())).await?;
        let Some(manifest) = manifest else {
            tracing::warn!(%place, %digest, "a newer push was overwritten, and the registry has removed it since");
            return Ok(());
        };
        let trail = Trail { ends: true, ..origin.trail_of(&digest) };
        let written = Written { digest: digest.clone(), at: Timestamp::now(), version: Some(version), trail, echoed: None };
        self.origins
            .change(place, |origin| {
                origin.note_write(written.clone());
                true
            })
            .await?;
        endpoint.registry.put_manifest(&endpoint.repository, &place.reference, &manifest).await?;
        tracing::info!(%place, %digest, "a newer push was put back");
        Ok(())
    }
}
