//! A deployment with a rule, whose functions reach the services through a relay.

use std::time::Duration;

use serde_json::{Value, json};
use transship_model::Digest;
use transship_tests::{DockerRegistry, HOOK_SECRET, Relay, Rie, media};

use crate::{
    package::Package,
    world::{World, request},
};

/// The longest that Lambda gives.
const TIMEOUT: Duration = Duration::from_secs(900);

pub(crate) struct Setting<'a> {
    pub(crate) world: World,
    pub(crate) relay: Relay,
    pub(crate) build: DockerRegistry,
    pub(crate) mirror: DockerRegistry,
    package: &'a Package,
    environment: Vec<(String, String)>,
}

impl<'a> Setting<'a> {
    /// Registries `build` and `mirror`, and a rule that copies `team` from one to the other.
    pub(crate) async fn start(package: &'a Package) -> Self {
        let (build, mirror) = (DockerRegistry::start().await, DockerRegistry::start().await);
        let world = World::syncing(build.url(), mirror.url()).await;
        let mut environment = world.environment();
        let services =
            environment.iter().find(|(name, _)| name == "AWS_ENDPOINT_URL").expect("where the services are").1.clone();
        let relay = Relay::start(services).await;
        for (_, value) in environment.iter_mut().filter(|(name, _)| name == "AWS_ENDPOINT_URL") {
            relay.url().clone_into(value);
        }
        Self { world, relay, build, mirror, package, environment }
    }

    /// A function of the deployment.
    pub(crate) async fn function(&self, name: &str) -> Rie {
        Rie::run(&self.package.binary(name), name, &self.environment, TIMEOUT).await
    }
}

/// The notification of a push to `build`.
pub(crate) fn pushed(repository: &str, tag: &str, digest: &Digest) -> Value {
    let body = json!({ "events": [{
        "id": format!("{:032x}", fastrand::u128(..)), "timestamp": "2026-01-01T00:00:00Z", "action": "push",
        "target": { "mediaType": media::OCI_MANIFEST, "digest": digest, "repository": repository, "tag": tag },
    }] });
    let bearer = format!("Bearer {HOOK_SECRET}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/vnd.docker.distribution.events.v1+json")];
    request("POST", "/hooks/build", &headers, &body.to_string())
}
