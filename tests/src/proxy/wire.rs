//! HTTP/1.1 messages (RFC 9112) as far as a proxy has to understand them: where the head ends, and where the body does.

use std::{io, time::Duration};

use reqwest::header::HeaderMap;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::sleep,
};

use super::Gate;

/// First line and headers of a message.
pub(super) struct Head {
    pub(super) first: String,
    pub(super) fields: Vec<(String, String)>,
}

impl Head {
    /// The next message's head; none where the connection ended before one began.
    pub(super) async fn read(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Self>> {
        let Some(first) = line(from).await? else { return Ok(None) };
        let mut fields = Vec::new();
        loop {
            let field = line(from).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if field.is_empty() {
                return Ok(Some(Self { first, fields }));
            }
            let (name, value) = field.split_once(':').ok_or(io::ErrorKind::InvalidData)?;
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    /// Removes a field; whether it was there.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        let before = self.fields.len();
        self.fields.retain(|(field, _)| !field.eq_ignore_ascii_case(name));
        self.fields.len() < before
    }

    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.fields.push((name.into(), value.into()));
    }

    pub(super) fn headers(&self) -> HeaderMap {
        let parse = |(name, value): &(String, String)| {
            Some((reqwest::header::HeaderName::try_from(name).ok()?, reqwest::header::HeaderValue::try_from(value).ok()?))
        };
        let mut map = HeaderMap::new();
        for (name, value) in self.fields.iter().filter_map(parse) {
            map.append(name, value);
        }
        map
    }

    /// The status, if this is the head of an answer.
    pub(super) fn status(&self) -> Option<u16> {
        self.first.split(' ').nth(1)?.parse().ok()
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let fields: String = self.fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("{}\r\n{fields}\r\n", self.first).into_bytes()
    }
}

/// How a body's end is told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

impl Framing {
    pub(super) fn of_request(head: &Head) -> Self {
        Self::told_by(head).unwrap_or(Self::Length(0))
    }

    pub(super) fn of_answer(head: &Head, to_head: bool) -> Self {
        if to_head || matches!(head.status(), Some(204 | 304)) {
            return Self::Length(0);
        }
        Self::told_by(head).unwrap_or(Self::UntilClose)
    }

    fn told_by(head: &Head) -> Option<Self> {
        if head.get("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            return Some(Self::Chunked);
        }
        head.get("content-length")?.parse().ok().map(Self::Length)
    }
}

/// What is handed on at a time of a body that is slow.
const PIECE: u64 = 64 << 10;

/// Something that happens at a place in a body.
pub(super) struct Fault {
    after: u64,
    what: What,
}

enum What {
    Reset,
    Hold(Gate),
    /// At each of its places.
    Wait(Duration),
}

impl Fault {
    pub(super) fn reset(after: u64) -> Self {
        Self { after, what: What::Reset }
    }

    pub(super) fn hold(after: u64, gate: Gate) -> Self {
        Self { after, what: What::Hold(gate) }
    }

    pub(super) fn slow(pause: Duration) -> Self {
        Self { after: 0, what: What::Wait(pause) }
    }
}

/// Why a body did not go through.
pub(super) enum RelayError {
    OnPurpose,
    Reading(io::Error),
    Writing,
}

impl RelayError {
    /// Who takes no more has said why, or will: the error itself tells nothing.
    pub(super) fn writing(_: io::Error) -> Self {
        Self::Writing
    }
}

/// Hands a body on as it comes, in the framing that it came in; `count` is told of its bytes.
pub(super) async fn relay(
    from: &mut (impl AsyncBufRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    framing: Framing,
    fault: Option<Fault>,
    count: impl Fn(u64),
) -> Result<(), RelayError> {
    let mut relay = Relay { from, to, fault, count, moved: 0 };
    match framing {
        Framing::Length(length) => relay.pieces(length, false).await?,
        Framing::UntilClose => match relay.pieces(u64::MAX, false).await {
            Err(RelayError::Reading(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            outcome => outcome?,
        },
        Framing::Chunked => relay.chunks().await?,
    }
    relay.to.flush().await.map_err(RelayError::writing)
}

struct Relay<'a, R, W, C> {
    from: &'a mut R,
    to: &'a mut W,
    fault: Option<Fault>,
    count: C,
    moved: u64,
}

impl<R: AsyncBufRead + Unpin, W: AsyncWrite + Unpin, C: Fn(u64)> Relay<'_, R, W, C> {
    async fn chunks(&mut self) -> Result<(), RelayError> {
        let bad = || RelayError::Reading(io::ErrorKind::InvalidData.into());
        loop {
            let size = line(self.from).await.map_err(RelayError::Reading)?.ok_or_else(bad)?;
            let size = u64::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16).map_err(|_| bad())?;
            if size == 0 {
                break;
            }
            self.pieces(size, true).await?;
            let mut end = [0; 2];
            self.from.read_exact(&mut end).await.map_err(RelayError::Reading)?;
        }
        // The trailer, if there is one, ends here.
        while line(self.from).await.map_err(RelayError::Reading)?.is_some_and(|field| !field.is_empty()) {}
        self.write(b"0\r\n\r\n").await
    }

    /// Moves `left` bytes, each piece as a chunk of its own if `chunked`.
    async fn pieces(&mut self, mut left: u64, chunked: bool) -> Result<(), RelayError> {
        while left > 0 {
            self.meet_fault().await?;
            let buffer = self.from.fill_buf().await.map_err(RelayError::Reading)?;
            if buffer.is_empty() {
                return Err(RelayError::Reading(io::ErrorKind::UnexpectedEof.into()));
            }
            let until_fault = self.fault.as_ref().map_or(u64::MAX, |fault| fault.after - self.moved);
            let size = (buffer.len() as u64).min(left).min(until_fault);
            let piece = buffer[..size as usize].to_vec();
            self.from.consume(piece.len());
            // Before it goes on: who has received an answer finds everything counted that led to it.
            (self.count)(size);
            if chunked {
                self.write(format!("{size:x}\r\n").as_bytes()).await?;
            }
            self.write(&piece).await?;
            if chunked {
                self.write(b"\r\n").await?;
            }
            (self.moved, left) = (self.moved + size, left - size);
        }
        Ok(())
    }

    async fn meet_fault(&mut self) -> Result<(), RelayError> {
        let Some(fault) = self.fault.take_if(|fault| fault.after == self.moved) else { return Ok(()) };
        self.to.flush().await.map_err(RelayError::writing)?;
        match &fault.what {
            What::Hold(gate) => gate.pass().await,
            What::Reset => return Err(RelayError::OnPurpose),
            What::Wait(pause) => {
                sleep(*pause).await;
                self.fault = Some(Fault { after: self.moved + PIECE, ..fault });
            }
        }
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), RelayError> {
        self.to.write_all(bytes).await.map_err(RelayError::writing)
    }
}

/// A line without its end; none where the connection has ended.
async fn line(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<String>> {
    let mut text = String::new();
    if from.take(64 << 10).read_line(&mut text).await? == 0 {
        return Ok(None);
    }
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
}
