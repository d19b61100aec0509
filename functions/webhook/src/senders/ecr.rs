//! Amazon ECR: EventBridge's `ECR Image Action`, which comes by the inbox queue, or to the webhook by an API destination.

use transship_model::{Instance, Kind};

use super::{Field, Push, Unreadable};

/// The pushes that an event tells of. Deletions and changes of the storage class have the same `detail-type`; other events of ECR
/// (scans, replication, the pull-through cache) have others.
pub(super) fn pushes(event: &Field<'_>) -> Result<Vec<Push>, Unreadable> {
    if event.need_text("source")? != "aws.ecr" {
        return Err(Unreadable::UnknownSender);
    }
    if event.need_text("detail-type")? != "ECR Image Action" {
        return Ok(Vec::new());
    }
    let detail = event.need("detail")?;
    if detail.need_text("action-type")? != "PUSH" || detail.need_text("result")? != "SUCCESS" {
        return Ok(Vec::new());
    }
    let (tag, digest) = detail.reference(["image-tag", "image-digest"])?;
    let repository = detail.need_parsed("repository-name")?;
    Ok(vec![Push { repository, tag, digest, id: event.id("id")?, time: event.get_parsed("time")? }])
}

/// An account's registry in a region: what an event of the inbox tells instead of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) account: String,
    pub(crate) region: String,
}

impl Origin {
    pub(super) fn read(event: &Field<'_>) -> Result<Self, Unreadable> {
        let text = |key| event.need_text(key).map(str::to_owned);
        Ok(Self { account: text("account")?, region: text("region")? })
    }

    /// Whether it is an instance's: ECR user guide, "Amazon ECR private registry", and "Making API requests over IPv6" for the
    /// dual-stack hosts.
    pub(crate) fn is_of(&self, instance: &Instance) -> bool {
        let Self { account, region } = self;
        let host = instance.endpoint.host_str().unwrap_or_default();
        let rest = host.strip_prefix(&**account).unwrap_or_default();
        let domain = [".dkr.ecr.", ".dkr.ecr-fips.", ".dkr-ecr.", ".dkr-ecr-fips."]
            .iter()
            .find_map(|service| rest.strip_prefix(service)?.strip_prefix(&**region)?.strip_prefix('.'));
        instance.kind == Kind::Ecr && domain.is_some_and(|domain| DOMAINS.contains(&domain))
    }
}

const DOMAINS: [&str; 4] = ["amazonaws.com", "amazonaws.com.cn", "on.aws", "on.amazonwebservices.com.cn"];

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use transship_model::{Credentials, Instance, Kind, WebhookAuth};

    use super::{
        super::tests::{assert_nothing, digest, push, refusal, told},
        Origin,
    };

    fn event(action: &str, detail: Value) -> Value {
        let mut event = json!({
            "version": "0", "id": "1f0c9a52-84c7-46a5-a1d0-0b5c0e9d3a11", "detail-type": "ECR Image Action", "source": "aws.ecr",
            "account": "123456789012", "time": "2026-03-04T05:06:07Z", "region": "eu-central-1", "resources": [],
            "detail": {"result": "SUCCESS", "repository-name": "shop/cart", "image-digest": digest('a'), "action-type": action}
        });
        event["detail"].as_object_mut().unwrap().extend(detail.as_object().unwrap().clone());
        event
    }

    #[test]
    fn a_push_is_read_with_or_without_a_tag() {
        for (detail, tag) in [(json!({"image-tag": "v3"}), "v3"), (json!({}), "-"), (json!({"image-tag": ""}), "-")] {
            let push = push(&event("PUSH", detail));
            assert_eq!(told(&push), ["shop/cart", tag, &digest('a')]);
            assert_eq!(push.id.as_deref(), Some("1f0c9a52-84c7-46a5-a1d0-0b5c0e9d3a11"));
            assert_eq!(push.time, Some("2026-03-04T05:06:07Z".parse().unwrap()));
        }
    }

    #[test]
    fn what_is_no_finished_push_is_nothing() {
        assert_nothing(&event("PUSH", json!({"result": "FAILURE", "image-tag": "v3"})));
        assert_nothing(&event("DELETE", json!({"image-tag": "v3"})));
        assert_nothing(&event("UPDATE_STORAGE_CLASS", json!({"target-storage-class": "ARCHIVE"})));
        for kind in ["ECR Image Scan", "ECR Replication Action", "ECR Pull Through Cache Action"] {
            let mut other = event("PUSH", json!({}));
            other["detail-type"] = kind.into();
            assert_nothing(&other);
        }
    }

    #[test]
    fn what_can_not_be_read_is_named() {
        assert!(
            refusal(&event("PUSH", json!({"repository-name": "Shop"}))).starts_with("detail.repository-name: \"Shop\" is not")
        );
        assert!(refusal(&event("PUSH", json!({"image-digest": null}))).contains("neither 'image-tag' nor 'image-digest'"));
        let mut foreign = event("PUSH", json!({}));
        foreign["source"] = "com.example".into();
        assert!(refusal(&foreign).contains("no sender that is understood"));
    }

    #[test]
    fn the_instance_is_known_by_account_and_region() {
        let origin = Origin { account: "123456789012".to_owned(), region: "eu-central-1".to_owned() };
        let is_of = |host: &str, kind| {
            origin.is_of(&Instance {
                name: "a".parse().unwrap(),
                endpoint: format!("https://{host}").parse().unwrap(),
                kind,
                region: None,
                zone: None,
                credentials: Credentials::Anonymous,
                webhook: WebhookAuth::Closed,
                token_realm: None,
                api: None,
                ecr: transship_model::EcrSettings::default(),
                tcr: None,
                ca: None,
                plain_http: false,
                notify: None,
            })
        };
        for host in [
            "123456789012.dkr.ecr.eu-central-1.amazonaws.com",
            "123456789012.dkr.ecr.eu-central-1.amazonaws.com.cn",
            "123456789012.dkr.ecr-fips.eu-central-1.amazonaws.com",
            "123456789012.dkr-ecr.eu-central-1.on.aws",
        ] {
            assert!(is_of(host, Kind::Ecr), "{host}");
            assert!(!is_of(host, Kind::Oci), "{host}");
        }
        for host in [
            "123456789013.dkr.ecr.eu-central-1.amazonaws.com",
            "0123456789012.dkr.ecr.eu-central-1.amazonaws.com",
            "123456789012.dkr.ecr.eu-central-2.amazonaws.com",
            "123456789012.dkr.ecr.eu-central-1.amazonaws.com.evil.test",
            "public.ecr.aws",
        ] {
            assert!(!is_of(host, Kind::Ecr), "{host}");
        }
    }
}
