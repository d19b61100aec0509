//! Harbor and Tencent TCR, whose format is that of Harbor 1.x.
//!
//! Harbor 2.x has a default format and CloudEvents; the data is the same. It tells the first tag of what was pushed, or the
//! digest once more where there is none.

use jiff::Timestamp;
use transship_model::Repository;

use super::{Field, Push, Unreadable, cloud_events::CloudEvent};

/// The pushes that an event of the default format tells of: `PUSH_ARTIFACT` of Harbor 2.x, `pushImage` of Harbor 1.x and TCR.
/// It has no ID.
///
/// Chart types (`uploadChart`, `UPLOAD_CHART`) are `ChartMuseum`'s, which is no registry.
pub(super) fn event(event: &Field<'_>) -> Result<Vec<Push>, Unreadable> {
    if !matches!(event.need("type")?.text()?, "PUSH_ARTIFACT" | "pushImage") {
        return Ok(Vec::new());
    }
    let time = event.get("occur_at").map(|field| field.seconds()).transpose()?;
    pushes(&event.need("event_data")?, None, time)
}

/// The pushes that a CloudEvent of a type `harbor.…` tells of.
pub(super) fn cloud_event(event: CloudEvent<'_>) -> Result<Vec<Push>, Unreadable> {
    match event.kind {
        "harbor.artifact.pushed" => pushes(&event.data()?, event.id, event.time),
        _ => Ok(Vec::new()),
    }
}

fn pushes(data: &Field<'_>, id: Option<String>, time: Option<Timestamp>) -> Result<Vec<Push>, Unreadable> {
    let name: Repository = data.need("repository")?.need_parsed("repo_full_name")?;
    let push = |resource: Field<'_>| {
        let (tag, digest) = resource.reference(["tag", "digest"])?;
        Ok(Push { repository: name.clone(), tag, digest, id: id.clone(), time })
    };
    data.need("resources")?.items()?.map(push).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{
        MAX_EVENTS,
        tests::{assert_nothing, digest, pushes, refusal},
    };

    /// The data of both formats.
    fn data(tag: &str) -> Value {
        json!({
            "resources": [{
                "digest": digest('c'), "tag": tag, "resource_url": format!("harbor.test/shop/web/cart:{tag}")
            }],
            "repository": {
                "date_created": 1_771_000_000, "name": "web/cart", "namespace": "shop", "repo_full_name": "shop/web/cart",
                "repo_type": "private"
            }
        })
    }

    fn replication() -> Value {
        json!({"replication": {
            "harbor_hostname": "harbor.test", "job_status": "Success", "artifact_type": "image",
            "successful_artifact": [{"type": "image", "status": "Success", "name_tag": "cart [2 item(s) in total]"}]
        }})
    }

    fn event(kind: &str, data: Value) -> Value {
        json!({"type": kind, "occur_at": 1_772_600_767, "operator": "robot$builder", "event_data": data})
    }

    fn cloud_event(kind: &str, data: Value) -> Value {
        json!({
            "specversion": "1.0", "id": "7c0de1b2-9a3f-4c55-8d1e-2f3a4b5c6d7e", "requestid": "a1b2c3d4",
            "source": "/projects/7/webhook/policies/3", "type": kind, "datacontenttype": "application/json",
            "time": "2026-03-04T05:06:07Z", "data": data, "operator": "robot$builder"
        })
    }

    #[test]
    fn a_push_is_read_from_either_format_and_from_harbor_1_and_tcr() {
        let time = Some("2026-03-04T05:06:07Z".parse().unwrap());
        for (body, id) in [
            (event("PUSH_ARTIFACT", data("v2")), None),
            (event("pushImage", data("v2")), None),
            (cloud_event("harbor.artifact.pushed", data("v2")), Some("7c0de1b2-9a3f-4c55-8d1e-2f3a4b5c6d7e")),
        ] {
            let [push] = &pushes(&body)[..] else { panic!("{body}") };
            assert_eq!(push.repository.as_str(), "shop/web/cart");
            assert_eq!(push.tag.as_ref().unwrap().as_str(), "v2");
            assert_eq!(push.digest.as_ref().unwrap().as_str(), digest('c'));
            assert_eq!((push.id.as_deref(), push.time), (id, time), "{body}");
        }
    }

    #[test]
    fn a_tag_that_is_a_digest_is_none() {
        for body in [
            event("PUSH_ARTIFACT", data(&digest('c'))),
            cloud_event("harbor.artifact.pushed", data(&digest('c'))),
            event("PUSH_ARTIFACT", data("")),
        ] {
            let [push] = &pushes(&body)[..] else { panic!("{body}") };
            assert_eq!((push.tag.as_ref(), push.digest.as_ref().unwrap().as_str()), (None, &*digest('c')));
        }
        let mut only_tag = data(&digest('d'));
        only_tag["resources"][0].as_object_mut().unwrap().remove("digest");
        assert_eq!(pushes(&event("PUSH_ARTIFACT", only_tag))[0].digest.as_ref().unwrap().as_str(), digest('d'));
    }

    #[test]
    fn a_tag_is_looked_at_even_if_its_digest_is_of_an_unknown_algorithm() {
        let mut unknown = data("v1");
        unknown["resources"][0]["digest"] = "blake3:0af1".into();
        let [push] = &pushes(&event("PUSH_ARTIFACT", unknown))[..] else { panic!("one push") };
        assert_eq!((push.tag.as_ref().unwrap().as_str(), push.digest.as_ref()), ("v1", None));
    }

    #[test]
    fn each_resource_is_a_push() {
        let mut two = data("v1");
        two["resources"].as_array_mut().unwrap().push(json!({"digest": digest('e'), "tag": "v1.1"}));
        let tags: Vec<_> = pushes(&event("PUSH_ARTIFACT", two)).into_iter().map(|push| push.tag.unwrap().to_string()).collect();
        assert_eq!(tags, ["v1", "v1.1"]);
    }

    #[test]
    fn other_events_are_nothing() {
        for kind in ["PULL_ARTIFACT", "DELETE_ARTIFACT", "QUOTA_EXCEED", "deleteImage", "uploadChart", "TEST", "something new"]
        {
            assert_nothing(&event(kind, data("v1")));
        }
        assert_nothing(&event("REPLICATION", replication()));
        assert_nothing(&json!({"type": "TEST", "occur_at": 1_772_600_767, "operator": "admin"}));
        assert_nothing(&cloud_event("harbor.artifact.deleted", data("v1")));
        assert_nothing(&cloud_event("harbor.replication.status.changed", replication()));
        let mut empty = data("v1");
        empty["resources"] = json!([]);
        assert_nothing(&event("PUSH_ARTIFACT", empty));
    }

    #[test]
    fn cloud_events_of_another_sender_are_refused() {
        assert!(refusal(&cloud_event("com.example.image.signed", data("v1"))).contains("no sender that is understood"));
    }

    #[test]
    fn a_push_that_can_not_be_read_is_refused_with_the_place() {
        let changed = |pointer: &str, value: Value| {
            let mut body = event("PUSH_ARTIFACT", data("v1"));
            *body.pointer_mut(pointer).unwrap() = value;
            refusal(&body)
        };
        assert!(
            changed("/event_data/repository/repo_full_name", json!("Shop"))
                .starts_with("event_data.repository.repo_full_name: \"Shop\" is not a repository name")
        );
        assert!(
            changed("/event_data/resources/0", json!({"digest": "md5:00"}))
                .starts_with("event_data.resources[0].digest: \"md5:00\" is not a digest")
        );
        assert_eq!(
            changed("/event_data/resources/0", json!({})),
            "event_data.resources[0]: neither 'tag' nor 'digest' is there"
        );
        assert_eq!(changed("/event_data/resources", json!({})), "event_data.resources: not a list");
        assert_eq!(changed("/event_data/repository", json!(null)), "event_data: 'repository' is missing");
        assert_eq!(changed("/occur_at", json!("now")), "occur_at: not a number of seconds");
        assert!(changed("/occur_at", json!(i64::MAX)).starts_with("occur_at: out of range"));
        assert!(changed("/event_data/resources", json!(vec![0; MAX_EVENTS + 1])).contains("1001 elements"));
        assert_eq!(refusal(&json!({"type": "pushImage", "occur_at": 1})), "the body: 'event_data' is missing");
    }
}
