//! Metrics of a site by HTTP: `/metrics` in the text format of Prometheus, `/healthz` for whoever only asks whether
//! all is well. What each number means is in `docs/metrics.md`.
//!
//! **Guarantees.** It answers from a snapshot of the board alone, whatever the daemon's other threads wait for.
//! 8 callers are served at a time, further ones wait outside; a request has at most 8 KiB, must be whole within
//! 5 seconds, and its answer taken within 5. GET and HEAD are all it understands; it changes nothing, and what it
//! says are counts and names of shares, policies' kinds and nodes, never a path.
//!
//! **Refuses** to be more: no keep-alive, no TLS, no password. It listens where the config says, which is loopback
//! unless somebody wants it otherwise.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use crate::exit::{Exit, Failure};
use crate::site::board::Board;
use crate::site::control::door::{Deadline, Door};

mod exposition;

pub use exposition::{METRICS, Metric, exposition};

/// Callers served at a time.
pub const CLIENTS_MAX: usize = 8;
/// Bytes of a request, with its headers.
pub const REQUEST_MAX: usize = 8 << 10;
/// A request must be whole, an answer taken, in this time.
const PATIENCE: Duration = Duration::from_secs(5);

/// The listener. Dropped, it is closed.
#[derive(Debug)]
pub struct Metrics {
    address: SocketAddr,
    _door: Door,
}

impl Metrics {
    /// Listens at `address`.
    ///
    /// # Errors
    /// [`Failure`]: the address cannot be had.
    pub fn open(address: SocketAddr, board: Arc<Board>) -> Result<Self, Failure> {
        let failed = |e: io::Error| Failure {
            exit: Exit::Refused,
            message: format!("metrics: listening on {address}: {e}"),
            hint: Some("'metrics' of the config says where".into()),
        };
        let listener = TcpListener::bind(address).map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let serve = move |client| drop(serve(TcpStream::from(client), &board));
        let door = Door::open("metrics", listener.into(), CLIENTS_MAX, serve).map_err(failed)?;
        Ok(Self { address: bound, _door: door })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    path: String,
    head_only: bool,
}

/// An answer.
struct Answer {
    status: &'static str,
    kind: &'static str,
    body: String,
}

const PLAIN: &str = "text/plain; charset=utf-8";
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

fn serve(stream: TcpStream, board: &Board) -> io::Result<()> {
    let mut stream = Deadline::new(stream, PATIENCE);
    let asked = match read_head(&mut stream) {
        Ok(Some(head)) => parse(&head),
        Ok(None) => Err("431 Request Header Fields Too Large"),
        Err(e) => return Err(e),
    };
    let head_only = asked.as_ref().is_ok_and(|asked| asked.head_only);
    let answer = match asked {
        Ok(asked) => answer(&asked.path, board),
        Err(status) => Answer { status, kind: PLAIN, body: format!("{status}\n") },
    };
    stream.renew(PATIENCE);
    let Answer { status, kind, body } = answer;
    let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
    let mut text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n{allow}\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n",
        body.len()
    );
    if !head_only {
        text.push_str(&body);
    }
    stream.write_all(text.as_bytes())
}

fn answer(path: &str, board: &Board) -> Answer {
    match path {
        "/metrics" => {
            Answer { status: "200 OK", kind: EXPOSITION, body: exposition(&board.snapshot()) }
        }
        "/healthz" => {
            let verdict = board.snapshot().verdict;
            let status = if verdict.ready { "200 OK" } else { "503 Service Unavailable" };
            let mut body = String::new();
            for reason in &verdict.reasons {
                if !reason.share.is_empty() {
                    body.push_str(&reason.share);
                    body.push_str(": ");
                }
                body.push_str(&reason.text);
                body.push('\n');
            }
            if verdict.ready {
                body.push_str("ok\n");
            }
            Answer { status, kind: PLAIN, body }
        }
        _ => Answer {
            status: "404 Not Found",
            kind: PLAIN,
            body: "there are /metrics and /healthz\n".into(),
        },
    }
}

/// Everything up to the empty line; none if that is too much.
fn read_head(stream: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    let mut buffer = [0; 1_024];
    loop {
        let from = head.len().saturating_sub(3);
        match stream.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => head.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        }
        let end = head[from..].windows(4).position(|four| four == b"\r\n\r\n");
        match end.map(|end| from + end) {
            Some(end) if end <= REQUEST_MAX => {
                head.truncate(end);
                return Ok(Some(head));
            }
            None if head.len() <= REQUEST_MAX => {}
            _ => return Ok(None),
        }
    }
}

/// The request line; headers change nothing of the answer, but what is no header is no HTTP.
fn parse(head: &[u8]) -> Result<Asked, &'static str> {
    const BAD: &str = "400 Bad Request";
    let head = std::str::from_utf8(head).map_err(|_| BAD)?;
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(BAD);
    };
    if !lines.all(|line| line.split_once(':').is_some_and(|(name, _)| is_token(name))) {
        return Err(BAD);
    }
    match version {
        "HTTP/1.1" | "HTTP/1.0" => {}
        _ => return Err("505 HTTP Version Not Supported"),
    }
    let head_only = match method {
        "GET" => false,
        "HEAD" => true,
        method if is_token(method) => return Err("405 Method Not Allowed"),
        _ => return Err(BAD),
    };
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    match target.starts_with('/') && !target.contains(|c: char| !c.is_ascii_graphic()) {
        true => Ok(Asked { path: path.to_owned(), head_only }),
        false => Err(BAD),
    }
}

fn is_token(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    !text.is_empty() && text.chars().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_request_is_refused_by_kind() {
        let asked = |path: &str, head_only| Ok(Asked { path: path.into(), head_only });
        let cases: [(&str, Result<Asked, &str>); 13] = [
            ("GET /metrics HTTP/1.1\r\nHost: x", asked("/metrics", false)),
            ("HEAD /healthz?probe=1 HTTP/1.0", asked("/healthz", true)),
            ("GET /metrics", Err("400 Bad Request")),
            ("GET  /metrics HTTP/1.1", Err("400 Bad Request")),
            ("GET metrics HTTP/1.1", Err("400 Bad Request")),
            ("GET http://a/metrics HTTP/1.1", Err("400 Bad Request")),
            ("GET /\u{7}metrics HTTP/1.1", Err("400 Bad Request")),
            ("GET /metrics HTTP/2", Err("505 HTTP Version Not Supported")),
            ("POST /metrics HTTP/1.1\r\nContent-Length: 5", Err("405 Method Not Allowed")),
            ("G(T /metrics HTTP/1.1", Err("400 Bad Request")),
            ("GET /metrics HTTP/1.1\r\nno header", Err("400 Bad Request")),
            ("GET /metrics HTTP/1.1\r\nHost : x", Err("400 Bad Request")),
            ("", Err("400 Bad Request")),
        ];
        for (head, expected) in cases {
            assert_eq!(parse(head.as_bytes()), expected, "{head:?}");
        }
        assert!(parse(b"GET /\xff HTTP/1.1").is_err());
    }

    #[test]
    fn a_head_ends_where_it_ends_however_it_comes() {
        struct Bytes(Vec<u8>);
        impl Read for Bytes {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                if self.0.is_empty() {
                    return Ok(0);
                }
                buffer[0] = self.0.remove(0);
                Ok(1)
            }
        }
        let head = read_head(&mut Bytes(b"GET / HTTP/1.1\r\nA: b\r\n\r\nbody".to_vec()));
        assert_eq!(head.expect("whole"), Some(b"GET / HTTP/1.1\r\nA: b".to_vec()));
        assert!(read_head(&mut Bytes(b"GET / HTTP/1.1\r\n".to_vec())).is_err());
        let long = vec![b'a'; REQUEST_MAX + 2];
        assert_eq!(read_head(&mut Bytes(long)).expect("read"), None);
    }
}
