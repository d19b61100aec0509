//! A reverse proxy that stands between a client and a registry, sees every request and breaks the ones that a test names.
//!
//! It speaks HTTP/1.1 on bare sockets: a reset is a TCP reset, and a body ends after exactly as many bytes as the test says,
//! which an HTTP library would not let it do. The `Host` header goes through as it came, so the `Location`s that
//! docker-registry builds from it lead through the proxy again.

mod wire;

use std::{
    io,
    pin::pin,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use reqwest::{Method, header::HeaderMap};
use tokio::{
    io::{AsyncWriteExt as _, BufReader},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

use crate::{At, Client};
use wire::{Fault, Framing, Head, RelayError, relay};

/// A request as the proxy sees it, before its body.
#[derive(Clone, Debug)]
pub struct Request {
    /// 0 for the first request that this proxy saw, and so on.
    pub number: usize,
    /// The method.
    pub method: Method,
    /// The path.
    pub path: String,
    /// What follows the `?`; empty if nothing does.
    pub query: String,
    /// The headers.
    pub headers: HeaderMap,
}

impl Request {
    /// Whether it has this method and this text in its path: `request.is("PATCH", "/blobs/uploads/")`.
    pub fn is(&self, method: &str, in_path: &str) -> bool {
        self.method == method && self.path.contains(in_path)
    }

    /// A header as text, empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// What has become of a request.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// The request.
    pub request: Request,
    /// The status that the registry, or the proxy in its place, answered. None where no answer has come yet, or ever.
    pub status: Option<u16>,
    /// Bytes of the request's body that went on to the registry.
    pub uploaded: u64,
    /// Bytes of the answer's body that went on to the client.
    pub downloaded: u64,
    /// When it came.
    pub began: Instant,
    /// When it was over, well or badly.
    pub ended: Option<Instant>,
}

/// What the proxy does with a request.
#[derive(Clone, Debug)]
pub enum Action {
    /// Hands it on.
    Pass,
    /// Hands it on after a while.
    Delay(Duration),
    /// Hands it on when the gate is open.
    Hold(Gate),
    /// Answers in the registry's place: status, headers, body.
    Status(u16, Vec<(String, String)>, Bytes),
    /// Resets the connection; the registry does not see the request.
    Reset,
    /// Hands it on, and resets the connection when the answer comes: it has happened, and the client does not know it.
    LoseAnswer,
    /// Hands it on, and the answer after a while.
    DelayAnswer(Duration),
    /// Hands it on and waits for so long before each piece of both bodies, which has 64 KiB at most: slow, but steady.
    Slow(Duration),
    /// Resets the connection after so many bytes of the answer's body.
    TruncateBody(u64),
    /// Stops after so many bytes of the answer's body until the gate is open.
    HoldBody(u64, Gate),
    /// Breaks both connections after so many bytes of the request's body.
    TruncateUpload(u64),
    /// Stops after so many bytes of the request's body until the gate is open.
    HoldUpload(u64, Gate),
}

impl Action {
    /// An answer in the registry's place.
    pub fn status(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Self {
        let headers = headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Self::Status(status, headers, body.into())
    }
}

/// A gate that requests are held at until the test opens it. Clones are the same gate.
#[derive(Clone, Debug)]
pub struct Gate(Arc<(watch::Sender<bool>, watch::Sender<usize>)>);

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new((watch::Sender::new(false), watch::Sender::new(0))))
    }
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets everything pass that waits here, and that will come.
    pub fn open(&self) {
        self.0.0.send_replace(true);
    }

    /// Waits until `n` requests have come to the gate.
    ///
    /// # Panics
    /// If they have not within half a minute.
    pub async fn reached(&self, n: usize) {
        let mut arrived = self.0.1.subscribe();
        let enough = timeout(Duration::from_secs(30), arrived.wait_for(|arrived| *arrived >= n)).await.is_ok();
        assert!(enough, "waited in vain for request {n} at the gate");
    }

    async fn pass(&self) {
        self.0.1.send_modify(|arrived| *arrived += 1);
        // The sender is in this gate: the channel is not closed.
        let _ = self.0.0.subscribe().wait_for(|open| *open).await;
    }
}

type Hook = Arc<dyn Fn(&Request) -> Action + Send + Sync>;

/// A running proxy; it ends, and breaks its connections, on drop.
pub struct Proxy {
    client: Client,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

struct Shared {
    /// Host and port of the registry.
    upstream: String,
    hook: Mutex<Hook>,
    exchanges: Mutex<Vec<Exchange>>,
}

impl Proxy {
    /// Starts a proxy before `upstream` (`http://host:port`); `hook` says what to do with each request.
    pub async fn start(upstream: &str, hook: impl Fn(&Request) -> Action + Send + Sync + 'static) -> Self {
        let upstream = upstream.strip_prefix("http://").expect("an http URL").trim_end_matches('/').to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let client = Client::new(format!("http://{}", listener.local_addr().expect("an address")));
        let shared = Arc::new(Shared { upstream, hook: Mutex::new(Arc::new(hook)), exchanges: Mutex::default() });
        let server = tokio::spawn(accept(listener, shared.clone()));
        Self { client, shared, server }
    }

    /// Starts one that passes everything, until [`Proxy::on`] says otherwise.
    pub async fn passing(upstream: &str) -> Self {
        Self::start(upstream, |_| Action::Pass).await
    }

    /// Says anew what to do with each request.
    pub fn on(&self, hook: impl Fn(&Request) -> Action + Send + Sync + 'static) {
        *self.shared.hook.lock().unwrap() = Arc::new(hook);
    }

    /// `http://127.0.0.1:<port>`.
    pub fn url(&self) -> &str {
        self.client.url()
    }

    /// `127.0.0.1:<port>`.
    pub fn host(&self) -> &str {
        self.client.host()
    }

    /// A client that goes through the proxy, without a login.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A place in the registry, through the proxy.
    pub fn at(&self, repository: impl Into<String>, reference: impl std::fmt::Display) -> At {
        self.client.at(repository, reference)
    }

    /// All requests so far, in the order in which they came.
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.shared.exchanges.lock().unwrap().clone()
    }

    /// How many requests so far had this method and this text in their path.
    pub fn count(&self, method: &str, in_path: &str) -> usize {
        self.shared.exchanges.lock().unwrap().iter().filter(|exchange| exchange.request.is(method, in_path)).count()
    }

    /// Forgets the requests so far. Wait for what is under way first: numbers begin at 0 again.
    pub fn forget(&self) {
        self.shared.exchanges.lock().unwrap().clear();
    }

    /// The greatest number of such requests that were under way at the same time.
    pub fn peak(&self, is: impl Fn(&Request) -> bool) -> usize {
        let exchanges = self.exchanges();
        let among: Vec<&Exchange> = exchanges.iter().filter(|exchange| is(&exchange.request)).collect();
        // The peak is reached at the beginning of one of them.
        let at = |time| among.iter().filter(|e| e.began <= time && e.ended.is_none_or(|ended| ended > time)).count();
        among.iter().map(|exchange| at(exchange.began)).max().unwrap_or(0)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task, and the connections with it.
    let mut connections = JoinSet::new();
    loop {
        let (client, _) = listener.accept().await.expect("a connection");
        while connections.try_join_next().is_some() {}
        connections.spawn(serve(client, shared.clone()));
    }
}

/// The requests of one connection, one after the other.
async fn serve(mut client: TcpStream, shared: Arc<Shared>) {
    // Where these fail the connection is gone already.
    let _ = client.set_nodelay(true);
    let (read, mut write) = client.split();
    let mut read = BufReader::with_capacity(64 << 10, read);
    let broken = loop {
        let Ok(Some(head)) = Head::read(&mut read).await else { break false };
        let Some((request, action)) = shared.begin(&head) else { break true };
        let mut exchange = Leg { shared: &shared, number: request.number, read: &mut read, write: &mut write };
        let outcome = exchange.run(head, &request, action).await;
        shared.note(request.number, |exchange| exchange.ended = Some(Instant::now()));
        match outcome {
            Ok(true) => {}
            Ok(false) => break false,
            Err(_) => break true,
        }
    };
    if broken {
        // Closing a socket that lingers for no time sends a reset.
        let _ = client.set_zero_linger();
    } else {
        let _ = client.shutdown().await;
    }
}

impl Shared {
    fn begin(&self, head: &Head) -> Option<(Request, Action)> {
        let mut words = head.first.split(' ');
        let method = words.next()?.parse().ok()?;
        let (path, query) = words.next().map(|target| target.split_once('?').unwrap_or((target, "")))?;
        let mut exchanges = self.exchanges.lock().unwrap();
        let (path, query) = (path.to_owned(), query.to_owned());
        let request = Request { number: exchanges.len(), method, path, query, headers: head.headers() };
        exchanges.push(Exchange {
            request: request.clone(),
            status: None,
            uploaded: 0,
            downloaded: 0,
            began: Instant::now(),
            ended: None,
        });
        drop(exchanges);
        let hook = self.hook.lock().unwrap().clone();
        let action = hook(&request);
        Some((request, action))
    }

    fn note(&self, number: usize, change: impl FnOnce(&mut Exchange)) {
        if let Some(exchange) = self.exchanges.lock().unwrap().get_mut(number) {
            change(exchange);
        }
    }
}

/// When an answer goes on to the client.
enum Late {
    No,
    By(Duration),
    Never,
}

/// The client's side of one exchange.
struct Leg<'a, 'c> {
    shared: &'a Shared,
    number: usize,
    read: &'a mut BufReader<ReadHalf<'c>>,
    write: &'a mut WriteHalf<'c>,
}

impl Leg<'_, '_> {
    /// Does with the request what `action` says. True: the connection can be used again. An error: it is to be reset.
    async fn run(&mut self, head: Head, request: &Request, action: Action) -> Result<bool, RelayError> {
        let (mut upload_fault, mut body_fault, mut late) = (None, None, Late::No);
        match action {
            Action::Pass => {}
            Action::Delay(time) => self.unless_gone(sleep(time)).await?,
            Action::Hold(gate) => self.unless_gone(gate.pass()).await?,
            Action::Status(status, headers, body) => return self.answer(&head, request, status, &headers, &body).await,
            Action::Reset => return Err(RelayError::OnPurpose),
            Action::LoseAnswer => late = Late::Never,
            Action::DelayAnswer(time) => late = Late::By(time),
            Action::Slow(pause) => (upload_fault, body_fault) = (Some(Fault::slow(pause)), Some(Fault::slow(pause))),
            Action::TruncateBody(after) => body_fault = Some(Fault::reset(after)),
            Action::HoldBody(after, gate) => body_fault = Some(Fault::hold(after, gate)),
            Action::TruncateUpload(after) => upload_fault = Some(Fault::reset(after)),
            Action::HoldUpload(after, gate) => upload_fault = Some(Fault::hold(after, gate)),
        }
        self.forward(head, request, upload_fault, body_fault, late).await
    }

    async fn answer(
        &mut self,
        head: &Head,
        request: &Request,
        status: u16,
        headers: &[(String, String)],
        body: &[u8],
    ) -> Result<bool, RelayError> {
        // The body is read first, unless the client waits to be asked for it: a connection that is closed with something
        // unread would take the answer with it.
        let keep = head.get("expect").is_none();
        if keep {
            relay(self.read, &mut tokio::io::sink(), Framing::of_request(head), None, |_| {}).await?;
        }
        self.shared.note(self.number, |exchange| exchange.status = Some(status));
        let mut answer = Head { first: format!("HTTP/1.1 {status} Injected"), fields: headers.to_vec() };
        answer.set("content-length", &body.len().to_string());
        answer.set("connection", if keep { "keep-alive" } else { "close" });
        let mut bytes = answer.to_bytes();
        if request.method != Method::HEAD {
            bytes.extend_from_slice(body);
        }
        self.write.write_all(&bytes).await.map_err(RelayError::writing)?;
        Ok(keep)
    }

    async fn forward(
        &mut self,
        mut head: Head,
        request: &Request,
        upload_fault: Option<Fault>,
        body_fault: Option<Fault>,
        late: Late,
    ) -> Result<bool, RelayError> {
        let (shared, number) = (self.shared, self.number);
        let mut upstream = TcpStream::connect(&shared.upstream).await.map_err(RelayError::Reading)?;
        upstream.set_nodelay(true).map_err(RelayError::Reading)?;
        let (up_read, mut up_write) = upstream.split();
        let mut up_read = BufReader::with_capacity(64 << 10, up_read);

        let framing = Framing::of_request(&head);
        let client_keeps = !head.get("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if head.remove("expect") {
            self.write.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.map_err(RelayError::writing)?;
        }
        // One connection a request: there is no state between them that a fault could leave behind.
        head.set("connection", "close");
        up_write.write_all(&head.to_bytes()).await.map_err(RelayError::Reading)?;

        let count_up = |bytes| shared.note(number, |exchange| exchange.uploaded += bytes);
        let upload = relay(self.read, &mut up_write, framing, upload_fault, count_up);
        let write = &mut *self.write;
        let download = async move {
            let mut answer = loop {
                let eof = || RelayError::Reading(io::ErrorKind::UnexpectedEof.into());
                let answer = Head::read(&mut up_read).await.map_err(RelayError::Reading)?.ok_or_else(eof)?;
                if !answer.first.contains(" 100 ") {
                    break answer;
                }
            };
            shared.note(number, |exchange| exchange.status = answer.status());
            match late {
                Late::No => {}
                Late::By(time) => sleep(time).await,
                Late::Never => return Err(RelayError::OnPurpose),
            }
            let framing = Framing::of_answer(&answer, request.method == Method::HEAD);
            let keep = client_keeps && framing != Framing::UntilClose;
            answer.set("connection", if keep { "keep-alive" } else { "close" });
            write.write_all(&answer.to_bytes()).await.map_err(RelayError::writing)?;
            let count = |bytes| shared.note(number, |exchange| exchange.downloaded += bytes);
            relay(&mut up_read, write, framing, body_fault, count).await?;
            Ok(keep)
        };

        let (mut upload, mut download) = (pin!(upload), pin!(download));
        tokio::select! {
            uploaded = &mut upload => match uploaded {
                // A registry that takes no more of the body has answered, or will.
                Ok(()) | Err(RelayError::Writing) => download.await,
                Err(error) => Err(error),
            },
            answered = &mut download => {
                let keep = answered?;
                // Answered before the whole body was sent: the client may send the rest, for a moment.
                let whole = timeout(Duration::from_secs(1), upload).await;
                Ok(keep && matches!(whole, Ok(Ok(()))))
            }
        }
    }

    /// Waits for something, but not for longer than the client is there: the request of a client that was killed must not
    /// reach the registry when the test opens the gate.
    async fn unless_gone(&self, wait: impl Future<Output = ()>) -> Result<(), RelayError> {
        let gone = async {
            while let Ok(ready) = self.read.get_ref().ready(tokio::io::Interest::READABLE).await {
                if ready.is_read_closed() {
                    break;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = wait => Ok(()),
            () = gone => Err(RelayError::Reading(io::ErrorKind::ConnectionAborted.into())),
        }
    }
}
