//! Azure Container Registry through Event Grid: lists of events of its own schema or of CloudEvents, and the handshakes by which it
//! asks whether they are wanted.
//!
//! With its own schema it posts a `SubscriptionValidationEvent` and waits for the code in it; with CloudEvents it sends `OPTIONS`
//! (CloudEvents, HTTP webhooks, section 4), which is answered before there is a body.

use super::{Field, Notification, Push, Unreadable, acr, cloud_events::CloudEvent};

/// What a list of events tells.
pub(super) fn events(list: &Field<'_>) -> Result<Notification, Unreadable> {
    let mut pushes = Vec::new();
    for event in list.items()? {
        if event.get("specversion").is_some() {
            let event = CloudEvent::read(event)?;
            if !event.kind.starts_with("Microsoft.") {
                return Err(Unreadable::UnknownSender);
            }
            pushes.extend(push(event)?);
            continue;
        }
        // Anybody's list may come here.
        let Some(kind) = event.get_text("eventType")? else { return Err(Unreadable::UnknownSender) };
        match kind {
            "Microsoft.EventGrid.SubscriptionValidationEvent" => {
                let code = event.need("data")?.need_text("validationCode")?;
                return Ok(Notification::Validation(code.to_owned()));
            }
            // Microsoft's examples have both.
            "ImagePushed" | PUSHED => {
                pushes.push(acr::push(&event.need("data")?, event.id("id")?, event.get_parsed("eventTime")?)?);
            }
            _ => {}
        }
    }
    Ok(Notification::of(pushes))
}

/// The push that a CloudEvent of a type `Microsoft.…` tells of. `ChartPushed` is of the old chart store, which is no registry.
pub(super) fn push(event: CloudEvent<'_>) -> Result<Option<Push>, Unreadable> {
    match event.kind {
        PUSHED => acr::push(&event.data()?, event.id, event.time).map(Some),
        _ => Ok(None),
    }
}

const PUSHED: &str = "Microsoft.ContainerRegistry.ImagePushed";

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{
        Notification,
        tests::{ENDPOINT, assert_nothing, digest, pushes, read_with, refusal, told},
    };

    fn data() -> Value {
        json!({
            "id": "5f6e7d8c-1a2b-4c3d-8e4f-5061728394a5", "timestamp": "2026-03-04T05:06:07.276585742Z", "action": "push",
            "location": "westeurope",
            "target": {
                "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 612, "digest": digest('a'), "length": 612,
                "repository": "shop/cart", "tag": "v3"
            },
            "request": {"id": "7c66", "host": "shop.azurecr.test", "method": "PUT", "useragent": "skopeo/1.18"}
        })
    }

    const TOPIC: &str = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ContainerRegistry/registries/shop";

    fn event(kind: &str) -> Value {
        json!({
            "id": "831e-1", "topic": TOPIC, "subject": "shop/cart:v3", "eventType": kind, "eventTime": "2026-03-04T05:06:08Z",
            "data": data(), "dataVersion": "2.0", "metadataVersion": "1"
        })
    }

    fn cloud_event(kind: &str) -> Value {
        json!({
            "specversion": "1.0", "id": "831e-1", "source": TOPIC, "subject": "shop/cart:v3", "type": kind,
            "time": "2026-03-04T05:06:08Z", "data": data()
        })
    }

    #[test]
    fn both_schemas_tell_of_pushes() {
        let kind = "Microsoft.ContainerRegistry.ImagePushed";
        let list =
            json!([event("ImagePushed"), event(kind), cloud_event(kind), event("Microsoft.ContainerRegistry.ImageDeleted")]);
        let found = pushes(&list);
        assert_eq!(found.len(), 3);
        // One CloudEvent need not be in a list.
        for push in found.iter().chain(&pushes(&cloud_event(kind))) {
            assert_eq!(told(push), ["shop/cart", "v3", &digest('a')]);
            assert_eq!(push.id.as_deref(), Some("831e-1"));
            assert_eq!(push.time, Some("2026-03-04T05:06:07.276585742Z".parse().unwrap()));
        }
    }

    #[test]
    fn other_events_are_nothing() {
        for kind in ["ImageDeleted", "ChartPushed", "ChartDeleted"] {
            let kind = format!("Microsoft.ContainerRegistry.{kind}");
            assert_nothing(&json!([event(&kind), cloud_event(&kind)]));
        }
        assert_nothing(&json!([]));
    }

    #[test]
    fn a_validation_is_answered_with_its_code() {
        let body = json!([{
            "id": "2d1781af", "topic": TOPIC, "subject": "", "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent",
            "eventTime": "2026-03-04T05:06:07Z", "metadataVersion": "1", "dataVersion": "2",
            "data": {"validationCode": "512d38b6-c7b8-40c8-89fe-f46f9e9622b6", "validationUrl": "https://eventgrid.test/validate"}
        }]);
        let code = "512d38b6-c7b8-40c8-89fe-f46f9e9622b6".to_owned();
        assert_eq!(read_with(&[], body.to_string().as_bytes(), ENDPOINT), Ok(Notification::Validation(code)));
    }

    #[test]
    fn a_list_is_read_completely_or_refused() {
        let mut foreign = event("ImagePushed");
        foreign["data"]["target"]["repository"] = "Shop".into();
        assert!(refusal(&json!([event("ImagePushed"), foreign])).starts_with("[1].data.target.repository: \"Shop\" is not"));
        assert!(refusal(&json!([{"kind": "push"}])).contains("no sender that is understood"));
        let mut other = cloud_event("com.example.image.push");
        other["data"] = json!({});
        assert!(refusal(&json!([other])).contains("no sender that is understood"));
    }
}
