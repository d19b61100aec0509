//! A registry as one run meets it: at the end of a link, and with a count of what it was asked for.

use std::{collections::HashSet, time::Duration};

use transship_tests::{DockerRegistry, Link, Wan, wait_until};

/// One side of a copy.
pub(crate) struct Side<'a> {
    registry: &'a DockerRegistry,
    wan: Option<Wan>,
    /// How long its log was before.
    logged: usize,
}

/// What passed on one side.
#[derive(Debug, Clone, Default)]
pub(crate) struct Traffic {
    /// Method and path of each request, in the order of their ends.
    pub(crate) requests: Vec<(String, String)>,
    /// To the registry, over the link; 0 without one.
    pub(crate) sent: u64,
    /// From the registry, over the link; 0 without one.
    pub(crate) received: u64,
    pub(crate) connections: u64,
}

impl Traffic {
    /// How many requests have this in their path.
    pub(crate) fn count(&self, part: &str) -> usize {
        self.requests.iter().filter(|(_, path)| path.contains(part)).count()
    }

    /// How often it was asked for a blob that it had been asked for before.
    pub(crate) fn asked_again(&self) -> usize {
        let mut seen = HashSet::new();
        self.requests.iter().filter(|(method, path)| method == "HEAD" && path.contains("/blobs/") && !seen.insert(path)).count()
    }
}

impl<'a> Side<'a> {
    /// A registry at the end of a link; without one it is met as it is.
    pub(crate) async fn new(registry: &'a DockerRegistry, link: Option<Link>) -> Self {
        let wan = match link {
            Some(link) => Some(Wan::start(registry.url(), link).await),
            None => None,
        };
        Self { registry, wan, logged: registry.log().len() }
    }

    pub(crate) fn url(&self) -> &str {
        self.wan.as_ref().map_or(self.registry.url(), Wan::url)
    }

    /// What has passed since the beginning.
    pub(crate) async fn traffic(self) -> Traffic {
        let mut log = String::new();
        // It writes its log when an answer has been sent.
        wait_until("the registry's log is complete", Duration::from_secs(10), async || {
            let before = std::mem::replace(&mut log, self.registry.log());
            before == log
        })
        .await;
        let wan = self.wan.as_ref();
        Traffic {
            requests: log[self.logged..].lines().filter_map(request).collect(),
            sent: wan.map_or(0, Wan::sent),
            received: wan.map_or(0, Wan::received),
            connections: wan.map_or(0, Wan::connections),
        }
    }
}

/// Method and path in a line of docker-registry's access log, which is Apache's: `… "GET /v2/ HTTP/1.1" 200 2 "" "curl/7.88.1"`.
fn request(line: &str) -> Option<(String, String)> {
    let mut words = line.split('"').nth(1)?.split(' ');
    let (method, path, version) = (words.next()?, words.next()?, words.next()?);
    let is_request = !line.starts_with("time=") && version.starts_with("HTTP/");
    is_request.then(|| (method.to_owned(), path.split('?').next().unwrap_or_default().to_owned()))
}
