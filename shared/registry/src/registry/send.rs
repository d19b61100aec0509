//! Sending a request: logging in, following redirects, trying again.

use std::{error::Error as _, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{LOCATION, RETRY_AFTER},
};
use reqwest::{RequestBuilder, Response};
use tokio::time::{Instant, sleep, timeout};
use url::Url;

use super::Registry;
use crate::{
    address::{Forbidden, Reach, written_out},
    auth::{Authorization, Scope, TokenService},
    error::{Error, Failure, network},
    http::Patience,
    limit::{Permit, SHORT_WAIT, Ticket},
};

/// How often a request is sent in all. Longer waits are the caller's, who knows what else there is to do.
const TRIES: u32 = 3;
/// The wait before the second try; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// How often a request is sent in all that is answered with 429. More often, because each of them makes us ask less.
const BUSY_TRIES: u32 = 8;
/// The wait after the first 429 that does not say how long to wait; it doubles with each further one.
const BUSY_PAUSE: Duration = Duration::from_millis(500);
/// The longest such wait.
const LONGEST_BUSY_PAUSE: Duration = Duration::from_secs(8);
/// The wait before each further try where there is patience for a registry in trouble.
const IN_TROUBLE: Duration = Duration::from_secs(1);
/// The longest wait that a registry is believed to need.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// How many redirects are followed.
const MAX_REDIRECTS: usize = 5;
/// How many logins are tried for one request: the one that worked before, the one that is asked for instead, a token for it
/// that is at hand, a fresh one.
const MAX_LOGINS: usize = 4;
/// How much of an error's body is read.
const MAX_ERROR: usize = 64 << 10;

/// A request that may be sent again: it has the same effect twice as once.
pub(crate) struct Call {
    /// For messages: `GET manifest app:v1`.
    pub(crate) action: String,
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) scope: Scope,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Error statuses that are an answer.
    pub(crate) expected: &'static [u16],
    /// Whether its answer is the end of real work, which takes its time.
    pub(crate) is_work: bool,
    /// Whether its answer is a blob.
    pub(crate) is_blob: bool,
}

impl Call {
    pub(crate) fn new(method: Method, action: impl Into<String>, url: Url, scope: Scope) -> Self {
        Self {
            action: action.into(),
            method,
            url,
            scope,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            expected: &[],
            is_work: false,
            is_blob: false,
        }
    }

    pub(crate) fn get(action: impl Into<String>, url: Url, scope: Scope) -> Self {
        Self::new(Method::GET, action, url, scope)
    }

    pub(crate) fn head(action: impl Into<String>, url: Url, scope: Scope) -> Self {
        Self::new(Method::HEAD, action, url, scope)
    }

    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    pub(crate) fn body(mut self, body: Bytes) -> Self {
        self.body = body;
        self
    }

    /// A call that is answered with a blob.
    pub(crate) fn of_blob(self) -> Self {
        Self { is_blob: true, ..self }
    }

    /// Statuses that are an answer rather than an error.
    pub(crate) fn expecting(mut self, statuses: &'static [u16]) -> Self {
        self.expected = statuses;
        self
    }

    /// Its answer is the end of real work.
    pub(crate) fn of_work(mut self) -> Self {
        self.is_work = true;
        self
    }
}

impl Registry {
    /// How long to wait before the next try, if there is to be one, of what was begun then.
    pub(crate) fn pause(&self, error: &Error, tried: u32, began: Instant) -> Option<Duration> {
        pause(error, tried).or_else(|| {
            let left = self.patience().trouble.saturating_sub(began.elapsed());
            let wait = error.retry_after().unwrap_or(IN_TROUBLE);
            (error.is_retry() && wait < left).then_some(wait)
        })
    }

    /// Sends a request and hands back its answer, which is a success or one of the expected statuses.
    pub(crate) async fn send(&self, call: &Call) -> Result<Response, Error> {
        let (mut tried, began) = (1, Instant::now());
        loop {
            // On the heap: much is waited for on the way, by callers that wait for several such at once.
            let error = match Box::pin(self.attempt(call)).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            let Some(pause) = self.pause(&error, tried, began) else { return Err(error) };
            tracing::debug!(registry = self.name(), %error, tried, "trying again");
            sleep(pause).await;
            tried += 1;
        }
    }

    /// One try, which mostly is up to three requests: without a login, with a stale token, with a fresh one.
    async fn attempt(&self, call: &Call) -> Result<Response, Error> {
        let mut authorization = self.authorization(&call.scope).await?;
        for _ in 0..MAX_LOGINS {
            let response = self.follow(call, authorization.as_ref()).await?;
            if response.status() != StatusCode::UNAUTHORIZED || !self.is_own(response.url()) {
                return self.judged(&call.action, response, call.expected).await;
            }
            let headers = response.headers().clone();
            let refusal = self.answer(&call.action, response).await;
            authorization = Some(Box::pin(self.0.auth.after_401(&headers, &call.scope, authorization, self, refusal)).await?);
        }
        Err(self.failure(&call.action, "the registry asks for one login after the other and takes none").refused())
    }

    /// What a request for this scope is to be sent with.
    pub(crate) async fn authorization(&self, scope: &Scope) -> Result<Option<Authorization>, Error> {
        self.0.auth.authorization(scope, self).await
    }

    /// Sends a request and follows its redirects if it only reads. The login goes to the registry alone.
    async fn follow(&self, call: &Call, authorization: Option<&Authorization>) -> Result<Response, Error> {
        let mut url = call.url.clone();
        let mut authorization = authorization;
        for _ in 0..=MAX_REDIRECTS {
            if !self.is_own(&url) {
                // For good: an origin that we were sent away from does not get the login back by a second redirect.
                authorization = None;
            }
            let permit = if self.is_own(&url) { Some(self.enter(&call.action).await?) } else { None };
            let client = match call.is_blob || !self.is_own(&url) {
                true => self.client(&call.action, &url).await?,
                false => self.0.messages.clone(),
            };
            let mut request = client.request(call.method.clone(), url).headers(call.headers.clone()).body(call.body.clone());
            if let Some(authorization) = authorization {
                request = authorization.apply(request);
            }
            let Patience { stall, work, .. } = self.patience();
            let response = self.received(&call.action, request, if call.is_work { work } else { stall }).await?;
            if let Some(permit) = permit {
                self.answered(permit.ticket(), &response);
            }
            let redirected = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            if !redirected || !matches!(call.method, Method::GET | Method::HEAD) {
                return Ok(response);
            }
            url = self
                .location(&call.action, &response)?
                .ok_or_else(|| self.failure(&call.action, "a redirect without a Location").refused())?;
        }
        Err(self.failure(&call.action, format!("more than {MAX_REDIRECTS} redirects")).refused())
    }

    /// Waits until the registry may be asked for something.
    pub(crate) async fn enter(&self, action: &str) -> Result<Permit<'_>, Error> {
        self.0.host.limit().enter().await.map_err(|wait| {
            let problem = format!("the registry has asked to be left alone for another {} seconds", wait.as_secs() + 1);
            // It would say so itself.
            self.failure(action, problem).with_status(429).retry(Some(wait))
        })
    }

    /// Learns from an answer how much may be asked.
    pub(crate) fn answered(&self, ticket: Ticket, response: &Response) {
        self.0.host.limit().answered(ticket, response.status().as_u16(), wait_of(response));
    }

    async fn received(&self, action: &str, request: RequestBuilder, patience: Duration) -> Result<Response, Error> {
        match timeout(patience, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(self.unreachable(action, error)),
            Err(_) => Err(self.stalled(action, patience)),
        }
    }

    /// The client for a URL: one that goes anywhere for the registry's own, one that watches its step for all others.
    pub(crate) async fn client(&self, action: &str, url: &Url) -> Result<reqwest::Client, Error> {
        if self.is_own(url) {
            return Ok(self.0.client.clone());
        }
        let reach = *self.0.reach.get_or_init(|| Reach::of_endpoint(&self.0.endpoint)).await;
        if let Some(address) = written_out(url)
            && !reach.allows(address)
        {
            return Err(self.failure(action, Forbidden::Inwards(address.to_string()).to_string()).refused());
        }
        self.0.http.elsewhere(reach, self.0.ca.as_ref())
    }

    /// Where an answer sends us, if it does: relative or absolute, never from https to http, never to another scheme.
    pub(crate) fn location(&self, action: &str, response: &Response) -> Result<Option<Url>, Error> {
        let Some(text) = response.headers().get(LOCATION) else { return Ok(None) };
        destination(response.url(), text.to_str().unwrap_or_default()).map(Some).map_err(|problem| {
            let failure = self.failure(action, problem.to_string());
            match problem {
                Astray::Downgrade(_) => failure
                    .hint("a registry behind a TLS proxy has to be told so: X-Forwarded-Proto, or its own external URL")
                    .refused(),
                _ => failure.refused(),
            }
        })
    }

    /// Lets an answer pass if it is a success or expected, and makes an error of it otherwise.
    pub(crate) async fn judged(&self, action: &str, response: Response, expected: &[u16]) -> Result<Response, Error> {
        let signed = !self.is_own(response.url());
        self.judged_as(action, response, expected, signed).await
    }

    /// The same, told whether it was a signed URL that was asked.
    async fn judged_as(&self, action: &str, response: Response, expected: &[u16], signed: bool) -> Result<Response, Error> {
        let status = response.status();
        if status.is_success() || expected.contains(&status.as_u16()) {
            return Ok(response);
        }
        let after = wait_of(&response);
        let failure = self.answer(action, response).await;
        Err(match status.as_u16() {
            408 | 429 | 500 | 502..=504 => failure.retry(after),
            // Not the specification's, but proxies': Cloudflare's family and "bandwidth limit exceeded".
            509 | 520..=524 | 529 => failure.retry(after),
            401 => failure.hint(format!("check the credentials of {}", self.name())).refused(),
            // A signed URL that has expired on the way is answered so by object storage; the registry makes a new one.
            403 if signed => failure.retry(None),
            403 => failure.hint(format!("check what the credentials of {} may do", self.name())).refused(),
            _ => failure.refused(),
        })
    }

    /// What an error answer says.
    pub(crate) async fn answer(&self, action: &str, mut response: Response) -> Failure {
        let status = response.status();
        let mut body = BytesMut::new();
        let read = async {
            while body.len() < MAX_ERROR
                && let Ok(Some(chunk)) = response.chunk().await
            {
                body.extend_from_slice(&chunk[..chunk.len().min(MAX_ERROR - body.len())]);
            }
        };
        // What has come by then will do: nobody needs the words.
        let _ = timeout(self.patience().stall, read).await;
        Failure::answer(self.name(), action, status, &body)
    }

    /// Reads a body that has to fit into memory.
    pub(crate) async fn read(&self, action: &str, mut response: Response, limit: usize) -> Result<Bytes, Error> {
        let too_large = || self.failure(action, format!("the answer has more than {limit} bytes")).refused();
        if response.content_length().is_some_and(|length| length > limit as u64) {
            return Err(too_large());
        }
        let mut body = BytesMut::new();
        loop {
            match timeout(self.patience().stall, response.chunk()).await {
                Ok(Ok(Some(chunk))) if body.len() + chunk.len() > limit => {
                    drop(chunk);
                    return Err(too_large());
                }
                Ok(Ok(Some(chunk))) => body.extend_from_slice(&chunk),
                Ok(Ok(None)) => return Ok(body.freeze()),
                Ok(Err(error)) => return Err(self.unreachable(action, error)),
                Err(_) => return Err(self.stalled(action, self.patience().stall)),
            }
        }
    }

    /// What a request's failure means.
    pub(crate) fn unreachable(&self, action: &str, error: reqwest::Error) -> Error {
        let mut cause = error.source();
        while let Some(error) = cause {
            if let Some(forbidden) = error.downcast_ref::<Forbidden>() {
                return self.failure(action, forbidden.to_string()).refused();
            }
            cause = error.source();
        }
        // No header could be made of what the registry has given us, a token for one.
        let unsendable = error.is_builder();
        let problem = network(error);
        // As hyper words it.
        if unsendable || problem.contains("message head is too large") {
            return self.failure(action, problem).refused();
        }
        // As rustls words what no second try mends.
        if problem.contains("invalid peer certificate") {
            let hint = certificate_hint(&problem, self.name());
            return self.failure(action, problem).hint(hint).refused();
        }
        self.failure(action, problem).retry(None)
    }

    pub(crate) fn stalled(&self, action: &str, waited: Duration) -> Error {
        self.failure(action, format!("no progress for {} seconds", waited.as_secs())).retry(None)
    }
}

impl TokenService for Registry {
    async fn ask(
        &self,
        realm: &Url,
        method: Method,
        request: impl Fn(RequestBuilder) -> RequestBuilder + Send + Sync,
        expected: &'static [u16],
    ) -> Result<Option<Vec<u8>>, Error> {
        let action = format!("getting a token from {}", realm.origin().ascii_serialization());
        let named = self.0.token_realm.as_ref().is_some_and(|named| named.origin() == realm.origin());
        // A realm that the operator has named may be anywhere, like the endpoint.
        let client = if named { self.0.client.clone() } else { self.client(&action, realm).await? };
        let (mut tried, began) = (1, Instant::now());
        loop {
            let sent = request(client.request(method.clone(), realm.clone()));
            let answered = match self.received(&action, sent, self.patience().stall).await {
                Ok(response) => self.judged_as(&action, response, expected, false).await,
                Err(error) => Err(error),
            };
            match answered {
                Ok(response) if expected.contains(&response.status().as_u16()) => return Ok(None),
                Ok(response) => return Ok(Some(self.read(&action, response, 1 << 20).await?.to_vec())),
                Err(error) => match self.pause(&error, tried, began) {
                    Some(pause) => sleep(pause).await,
                    None => return Err(error),
                },
            }
            tried += 1;
        }
    }
}

/// Why a `Location` is not followed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Astray {
    #[error("it sends us to what is no URL")]
    NoUrl,
    #[error("it sends us from https to plain http, {0}")]
    Downgrade(String),
    #[error("it sends us to a {0}: URL")]
    Scheme(String),
    #[error("it sends us to a URL with credentials in it")]
    Credentials,
}

/// Where a `Location` leads; its address is looked at when connecting.
fn destination(from: &Url, location: &str) -> Result<Url, Astray> {
    let url = from.join(location).map_err(|_| Astray::NoUrl)?;
    match (from.scheme(), url.scheme()) {
        (_, "https") | ("http", "http") => {}
        (_, "http") => return Err(Astray::Downgrade(url.origin().ascii_serialization())),
        (_, scheme) => return Err(Astray::Scheme(scheme.into())),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Astray::Credentials);
    }
    Ok(url)
}

/// What to do about a certificate that rustls has found wanting.
fn certificate_hint(problem: &str, name: &str) -> String {
    if problem.contains("not valid for name") || problem.contains("NotValidForName") {
        return format!("use a host name for {name} that its certificate is for");
    }
    if problem.to_lowercase().contains("expired") || problem.contains("not valid yet") {
        return "have it renewed, or set the clock of this machine".into();
    }
    if problem.contains("CaUsedAsEndEntity") {
        return "it is an authority's own: make one for the server that is none, as openssl req -x509 -addext \
                basicConstraints=critical,CA:FALSE does"
            .into();
    }
    format!(
        "the authority that signed it is not trusted here: name that authority's certificate as the ca of {name} (copy: --ca), or install it \
         in the system"
    )
}

/// How long to wait before the next try, if there is to be one.
fn pause(error: &Error, tried: u32) -> Option<Duration> {
    let busy = error.failure().status() == Some(429);
    if !error.is_retry() || tried >= if busy { BUSY_TRIES } else { TRIES } {
        return None;
    }
    let doubled = f64::from(1u32 << (tried - 1)) * (0.5 + fastrand::f64());
    match error.retry_after() {
        Some(after) => (after <= SHORT_WAIT).then_some(after),
        None if busy => Some(BUSY_PAUSE.mul_f64(doubled).min(LONGEST_BUSY_PAUSE)),
        None => Some(FIRST_PAUSE.mul_f64(doubled)),
    }
}

/// How long a registry asks to wait.
pub(crate) fn wait_of(response: &Response) -> Option<Duration> {
    retry_after(response.headers().get(RETRY_AFTER)?.to_str().ok()?)
}

/// `Retry-After`: RFC 9110, section 10.2.3, seconds or a date.
fn retry_after(text: &str) -> Option<Duration> {
    let text = text.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
            Duration::try_from(date.duration_since(jiff::Timestamp::now())).unwrap_or_default()
        }
    };
    Some(wait.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_seconds_or_a_date() {
        assert_eq!(retry_after("120"), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("0"), Some(Duration::ZERO));
        assert_eq!(retry_after("99999999999"), Some(LONGEST_WAIT));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(90);
        let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&soon).unwrap();
        let wait = retry_after(&date).unwrap();
        assert!((85..=90).contains(&wait.as_secs()), "{date}: {wait:?}");
        assert_eq!(retry_after("soon"), None);
        assert_eq!(retry_after("-1"), None);
    }

    #[test]
    fn a_location_leads_to_https_or_stays_plain() {
        let from = |from: &str, location: &str| destination(&from.parse().unwrap(), location).map(String::from);
        assert_eq!(from("https://a/v2/x", "/v2/y?z").unwrap(), "https://a/v2/y?z");
        assert_eq!(from("https://a/v2/x", "https://b:1/y").unwrap(), "https://b:1/y");
        assert_eq!(from("http://a/v2/x", "https://b/").unwrap(), "https://b/");
        assert_eq!(from("http://a/v2/x", "http://b/").unwrap(), "http://b/");
        assert_eq!(from("https://a/v2/x", "http://a/y"), Err(Astray::Downgrade("http://a".into())));
        for scheme in ["ftp", "file", "data", "javascript", "unix", "gopher"] {
            assert_eq!(from("https://a/v2/x", &format!("{scheme}://a/y")), Err(Astray::Scheme(scheme.into())));
        }
        assert_eq!(from("https://a/v2/x", "https://u:p@a/y"), Err(Astray::Credentials));
        assert_eq!(from("https://a/v2/x", "https://"), Err(Astray::NoUrl));
    }

    /// What a registry on the internet may not make us talk to, by address or by a name that stands for one.
    #[tokio::test]
    async fn a_public_registry_sends_us_to_public_addresses_only() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = |endpoint: &str| crate::RegistryConfig {
            name: "x".into(),
            endpoint: endpoint.parse().unwrap(),
            kind: transship_model::Kind::Oci,
            credentials: crate::Login::Anonymous,
            token_realm: None,
            api: None,
            ecr: transship_model::EcrSettings::default(),
            tcr: None,
            plain_http: true,
            ca: None,
        };
        let http = crate::Http::new().unwrap();
        let registry = |endpoint: &str| Registry::new(&http, config(endpoint)).unwrap();
        let (public, private) = (registry("https://8.8.8.8"), registry("http://10.1.2.3"));
        let reach = async |registry: &Registry, url: &str| {
            let client = registry.client("GET x", &url.parse().unwrap()).await?;
            let sent = timeout(Duration::from_millis(100), client.get(url).send()).await;
            match sent {
                Ok(Err(error)) if error.is_connect() => Err(registry.unreachable("GET x", error)),
                _ => Ok(()),
            }
        };
        for host in [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "[::1]",
            "[fc00::1]",
            "[fd00::1]",
            "[fe80::1]",
            "169.254.1.1",
        ]
        .into_iter()
        .chain([
            "169.254.169.254",
            "[fd00:ec2::254]",
            "[::ffff:10.0.0.1]",
            "[64:ff9b::a00:1]",
            "0.0.0.0",
            "0x7f.1",
            "2130706433",
            "localhost",
        ]) {
            let error = reach(&public, &format!("http://{host}:{port}/x")).await.unwrap_err();
            assert!(
                matches!(error, Error::Refused(_)) && error.to_string().contains("is a private, loopback or"),
                "{host}: {error}"
            );
        }
        for host in ["127.0.0.1", "localhost", "169.254.169.254"] {
            let error = reach(&private, &format!("http://{host}:{port}/x")).await.unwrap_err();
            assert!(matches!(error, Error::Refused(_)), "{host}: {error}");
        }
        // Nobody has come. Who may, does.
        let came = || timeout(Duration::from_millis(100), listener.accept());
        assert!(came().await.is_err());
        let _ = reach(&registry("http://127.0.0.1:1"), &format!("http://localhost:{port}/x")).await;
        assert!(came().await.is_ok());
        assert!(private.client("GET x", &"http://10.9.9.9/x".parse().unwrap()).await.is_ok());
        assert!(public.client("GET x", &"https://1.1.1.1/x".parse().unwrap()).await.is_ok());
    }

    /// Would break: a name in somebody's DNS makes a worker ask the metadata service of its machine, with an instance that anybody may edit.
    #[tokio::test]
    async fn no_name_leads_to_the_link_or_to_a_metadata_service() {
        let named = |host: &str, realm: Option<&str>| {
            let config = crate::RegistryConfig {
                name: "x".into(),
                endpoint: format!("http://{host}:9").parse().unwrap(),
                kind: transship_model::Kind::Oci,
                credentials: crate::Login::Anonymous,
                token_realm: realm.map(|realm| realm.parse().unwrap()),
                api: None,
                ecr: transship_model::EcrSettings::default(),
                tcr: None,
                plain_http: true,
                ca: None,
            };
            Registry::new(&crate::Http::new().unwrap(), config).unwrap()
        };
        let asked = async |client: reqwest::Client, registry: &Registry, url: &str| {
            // An address that is allowed has nobody who answers.
            let sent = timeout(Duration::from_secs(1), client.get(url).send()).await;
            sent.ok().and_then(Result::err).map(|error| registry.unreachable("GET x", error))
        };
        for host in ["169-254-1-1.at.test", "169-254-169-254.at.test", "fe80--1.at.test", "fd00-ec2--254.at.test"] {
            let (registry, url) = (named(host, None), format!("http://{host}:9/x"));
            for client in [registry.0.client.clone(), registry.0.messages.clone(), registry.0.http.for_messages(None).unwrap()]
            {
                let error = asked(client, &registry, &url).await.unwrap();
                assert!(matches!(error, Error::Refused(_)) && error.to_string().contains("where no registry is"), "{error}");
            }
            // Nor does a registry that is there send us on to it.
            let client = registry.client("GET x", &format!("http://{host}:8/x").parse().unwrap()).await.unwrap();
            let error = asked(client, &registry, &url).await.unwrap();
            assert!(matches!(error, Error::Refused(_)), "{host}: {error}");
        }
        for host in ["127-0-0-1.at.test", "10-255-255-1.at.test", "fd12--1.at.test"] {
            let registry = named(host, None);
            let error = asked(registry.0.client.clone(), &registry, &format!("http://{host}:9/x")).await;
            assert!(!matches!(error, Some(Error::Refused(_))), "{host}: {error:?}");
        }
    }

    #[test]
    fn only_short_waits_are_made_here() {
        let error = |status: u16, after| Failure::answer("x", "y", StatusCode::from_u16(status).unwrap(), b"").retry(after);
        assert!(pause(&error(503, None), 1).is_some());
        assert!(pause(&error(503, None), TRIES).is_none());
        assert_eq!(pause(&error(429, Some(Duration::from_secs(1))), 1), Some(Duration::from_secs(1)));
        assert!(pause(&error(429, Some(Duration::from_secs(30))), 1).is_none());
        assert!(pause(&error(429, None), TRIES).is_some());
        assert!(pause(&error(429, None), BUSY_TRIES).is_none());
        assert!(pause(&Failure::new("x", "y", "z").refused(), 1).is_none());
    }
}
