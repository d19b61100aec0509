//! ECR's own API: repositories and the images in them, by requests that are signed instead of sent with a password.

use std::{error::Error, time::Duration};

use aws_sdk_ecr::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::create_repository::builders::CreateRepositoryFluentBuilder,
    types::{
        EncryptionConfiguration, EncryptionType, ImageIdentifier, ImageScanningConfiguration, ImageTagMutability,
        ListImagesFilter, Tag as ResourceTag, TagStatus,
    },
};
use tokio::time::{sleep, timeout};
use transship_model::{EcrSettings, Repository, Tag};

use super::{Denial, EcrIdentity, PATIENCE, late};

/// The service gives no more at once.
const PAGE: i32 = 1000;

/// After so long a policy that was refused for the moment is put again: a service that is asked too much lets in by the second.
const POLICY_WAITS: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];

/// A page of what the service lists, and where the next one begins.
pub(crate) type Listed<T> = (Vec<T>, Option<String>);

impl EcrIdentity {
    /// Tags with their digests, as the service has them; `None` if there is no such repository. `registry` is the account that the
    /// registry belongs to, the identity's own if there is none.
    pub(crate) async fn images(
        &self,
        registry: Option<&str>,
        repository: &Repository,
        from: Option<String>,
    ) -> Result<Option<Listed<(String, String)>>, Denial> {
        let tagged = ListImagesFilter::builder().tag_status(TagStatus::Tagged).build();
        let request = self.client().await?.list_images().set_registry_id(registry.map(str::to_owned));
        let request = request.repository_name(repository.as_str()).filter(tagged).max_results(PAGE).set_next_token(from);
        let answer = match self.ask("ecr:ListImages", request.send()).await {
            Err(denial) if is(&denial, "RepositoryNotFoundException") => return Ok(None),
            answer => answer?,
        };
        let next = answer.next_token().map(str::to_owned);
        let image = |image: ImageIdentifier| Some((image.image_tag?, image.image_digest?));
        Ok(Some((answer.image_ids.unwrap_or_default().into_iter().filter_map(image).collect(), next)))
    }

    /// The names of repositories.
    pub(crate) async fn repositories(&self, registry: Option<&str>, from: Option<String>) -> Result<Listed<String>, Denial> {
        let request = self.client().await?.describe_repositories().set_registry_id(registry.map(str::to_owned));
        let request = request.max_results(PAGE).set_next_token(from);
        let answer = self.ask("ecr:DescribeRepositories", request.send()).await?;
        let next = answer.next_token().map(str::to_owned);
        let names = answer.repositories.unwrap_or_default().into_iter().filter_map(|repository| repository.repository_name);
        Ok((names.collect(), next))
    }

    /// Makes a repository, unless somebody else just has: `false`.
    pub(crate) async fn create_repository(
        &self,
        registry: Option<&str>,
        repository: &Repository,
        settings: &EcrSettings,
    ) -> Result<bool, Denial> {
        let permission = match settings.tags.is_empty() {
            true => "ecr:CreateRepository",
            false => "ecr:CreateRepository and ecr:TagResource",
        };
        let request = self.client().await?.create_repository().set_registry_id(registry.map(str::to_owned));
        let request = with(request.repository_name(repository.as_str()), settings);
        match self.ask(permission, request.send()).await {
            Ok(_) => {}
            Err(denial) if is(&denial, "RepositoryAlreadyExistsException") => return Ok(false),
            Err(denial) => return Err(denial),
        }
        if let Some(policy) = &settings.lifecycle_policy {
            let request = self.client().await?.put_lifecycle_policy().set_registry_id(registry.map(str::to_owned));
            let request = request.repository_name(repository.as_str()).lifecycle_policy_text(policy.as_str());
            let put = || self.ask("ecr:PutLifecyclePolicy", request.clone().send());
            let mut answer = put().await;
            // The next push finds the repository, and nobody gives it its policy then: it is tried again here.
            for wait in POLICY_WAITS {
                if !matches!(&answer, Err(denial) if denial.may_pass) {
                    break;
                }
                sleep(wait).await;
                answer = put().await;
            }
            // Now whoever reads this has to.
            let without = |denial: Denial| Denial {
                problem: format!(
                    "it is made, and has no lifecycle policy, which is to be given to it by hand: {}",
                    denial.problem
                ),
                may_pass: false,
                ..denial
            };
            answer.map_err(without)?;
        }
        Ok(true)
    }

    /// Deletes a tag, and what it points to with it if that has no other: `Err` within has the service's words if it would not.
    pub(crate) async fn delete_tag(
        &self,
        registry: Option<&str>,
        repository: &Repository,
        tag: &Tag,
    ) -> Result<Result<(), String>, Denial> {
        let image = ImageIdentifier::builder().image_tag(tag.as_str()).build();
        let request = self.client().await?.batch_delete_image().set_registry_id(registry.map(str::to_owned));
        let request = request.repository_name(repository.as_str()).image_ids(image);
        let answer = self.ask("ecr:BatchDeleteImage", request.send()).await?;
        Ok(match answer.failures().first() {
            None => Ok(()),
            Some(failure) => {
                let code = failure.failure_code().map_or("an unknown failure", |code| code.as_str());
                Err(format!("{code}: {}", failure.failure_reason().unwrap_or_default()))
            }
        })
    }

    async fn client(&self) -> Result<&Client, Denial> {
        timeout(PATIENCE, self.0.client()).await.unwrap_or_else(|_| Err(late()))
    }

    /// One operation of the API, within the time that AWS may take.
    async fn ask<T, E>(&self, permission: &str, sent: impl Future<Output = Result<T, SdkError<E>>>) -> Result<T, Denial>
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        match timeout(PATIENCE, sent).await {
            Ok(answer) => answer.map_err(|error| self.0.denial(&error, permission)),
            Err(_) => Err(late()),
        }
    }
}

fn is(denial: &Denial, code: &str) -> bool {
    denial.code.as_deref() == Some(code)
}

/// Nothing is said that has not been set.
fn with(mut request: CreateRepositoryFluentBuilder, settings: &EcrSettings) -> CreateRepositoryFluentBuilder {
    let EcrSettings { immutable_tags, scan_on_push, kms_key, lifecycle_policy: _, tags } = settings;
    if *immutable_tags {
        request = request.image_tag_mutability(ImageTagMutability::Immutable);
    }
    if *scan_on_push {
        request = request.image_scanning_configuration(ImageScanningConfiguration::builder().scan_on_push(true).build());
    }
    if let Some(key) = kms_key {
        let encryption = EncryptionConfiguration::builder().encryption_type(EncryptionType::Kms).kms_key(key);
        // They fail without the fields that are given here, so that none is lost.
        request = request.set_encryption_configuration(encryption.build().ok());
    }
    tags.iter()
        .filter_map(|(key, value)| ResourceTag::builder().key(key).value(value).build().ok())
        .fold(request, CreateRepositoryFluentBuilder::tags)
}
