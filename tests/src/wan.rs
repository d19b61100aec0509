//! Distance: a relay in front of a registry that puts it as far away as one likes.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    join,
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    select,
    sync::{Semaphore, mpsc},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep_until},
};

use crate::{At, Client};

/// What is read at a time, at most.
const PIECE: usize = 64 << 10;
/// The pieces that a direction of a connection has room for. 64 MiB are far more than 400 Mbit/s have under way in 80 ms.
const PIECES: usize = 1024;
/// tokio's timer rounds up to a whole millisecond: asked half of one early, it is right on average.
const EARLY: Duration = Duration::from_micros(500);

/// What a link is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Link {
    /// How long a byte takes to the other end and its answer back. A new connection takes as long to open.
    pub round_trip: Duration,
    /// Bytes a second that each direction of a connection carries; `None`: as many as there are.
    pub rate: Option<u64>,
}

/// A [`Link`] to a registry. docker-registry makes its `Location`s from the request's host, so that uploads lead through the link, too.
/// It ends on drop, and its connections with it.
pub struct Wan {
    client: Client,
    passed: Arc<Passed>,
    accepting: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Passed {
    connections: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
}

impl Wan {
    /// A link to the registry at this `http://` URL.
    pub async fn start(to: &str, link: Link) -> Self {
        let to = to.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = Client::new(format!("http://{}", listener.local_addr().expect("its address")));
        let passed = Arc::new(Passed::default());
        let accepting = tokio::spawn(accept(listener, to, link, passed.clone()));
        Self { client, passed, accepting }
    }

    /// `http://127.0.0.1:<port>`.
    pub fn url(&self) -> &str {
        self.client.url()
    }

    /// A client on this end of the link.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A place in the registry, seen from this end.
    pub fn at(&self, repository: impl Into<String>, reference: impl std::fmt::Display) -> At {
        self.client.at(repository, reference)
    }

    /// How many connections have been opened.
    pub fn connections(&self) -> u64 {
        self.passed.connections.load(Ordering::Relaxed)
    }

    /// How many bytes have gone to the registry.
    pub fn sent(&self) -> u64 {
        self.passed.up.load(Ordering::Relaxed)
    }

    /// How many bytes have come from the registry.
    pub fn received(&self) -> u64 {
        self.passed.down.load(Ordering::Relaxed)
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, to: String, link: Link, passed: Arc<Passed>) {
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        passed.connections.fetch_add(1, Ordering::Relaxed);
        let (to, passed) = (to.clone(), passed.clone());
        connections.spawn(async move {
            // The nearer system has let it in already: what the handshake takes is added to the first bytes.
            let open = Instant::now() + link.round_trip;
            let Ok(far) = TcpStream::connect(to).await else { return };
            for end in [&near, &far] {
                end.set_nodelay(true).expect("an option of the socket");
            }
            let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
            let up = pump(from_near, to_far, link, open, &passed.up);
            join!(up, pump(from_far, to_near, link, open, &passed.down));
        });
        while connections.try_join_next().is_some() {}
    }
}

/// One direction of a connection, to its end.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, link: Link, open: Instant, passed: &AtomicU64) {
    let room = Arc::new(Semaphore::new(PIECES));
    let (line, mut arriving) = mpsc::unbounded_channel();
    let read = async move {
        let (mut free, mut buffer) = (open, BytesMut::new());
        while let Ok(permit) = room.clone().acquire_owned().await {
            buffer.reserve(PIECE);
            let length = from.read_buf(&mut (&mut buffer).limit(PIECE)).await.unwrap_or(0);
            let takes = link.rate.map_or(0.0, |rate| length as f64 / rate as f64);
            free = free.max(Instant::now()) + Duration::from_secs_f64(takes);
            passed.fetch_add(length as u64, Ordering::Relaxed);
            // Its end takes as long as its bytes do.
            let sent = line.send((free + link.round_trip / 2, buffer.split().freeze(), permit));
            if length == 0 || sent.is_err() {
                break;
            }
        }
    };
    let deliver = async move {
        while let Some((due, piece, _permit)) = arriving.recv().await {
            let piece: Bytes = piece;
            if due > Instant::now() + EARLY {
                sleep_until(due - EARLY).await;
            }
            let written = if piece.is_empty() { to.shutdown().await } else { to.write_all(&piece).await };
            if written.is_err() {
                break;
            }
        }
    };
    select! {
        () = deliver => {}
        () = async { read.await; pending().await } => {}
    }
}
