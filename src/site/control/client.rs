//! The other end of the control socket: asks a daemon, and tells what became of it in words.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde::Deserialize;
use serde_json::Value;

use super::door::Deadline;
use super::{Request, socket_path, with_address, with_patience};
use crate::exit::{Exit, Failure};

/// Bytes of an answer: far more than a snapshot has.
const RESPONSE_MAX: u64 = 64 << 20;

#[derive(Deserialize)]
enum Response {
    #[serde(rename = "ok")]
    Ok(Value),
    #[serde(rename = "error")]
    Error(Refusal),
}

#[derive(Deserialize)]
struct Refusal {
    exit: u8,
    message: String,
    hint: Option<String>,
}

/// Asks the daemon of the state folder `state`, and waits for its answer no longer than `timeout`.
///
/// # Errors
/// [`Failure`]: [`Exit::NoDaemon`] when none is there, [`Exit::Connection`] when it does not answer in time, or what
/// it said itself.
pub fn call(state: &Path, request: &Request, timeout: Duration) -> Result<Value, Failure> {
    let path = socket_path(state);
    let stream = connect(&path, timeout).map_err(|e| not_there(&path, &e))?;
    let broken = |e: io::Error| Failure {
        exit: Exit::Connection,
        message: match e.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => format!(
                "control socket {}: the daemon did not answer within {timeout:?}",
                path.display()
            ),
            _ => format!("control socket {}: the daemon broke off: {e}", path.display()),
        },
        hint: None,
    };
    let mut stream = Deadline::new(stream, timeout);
    let mut text = serde_json::to_vec(request).map_err(|e| Failure::new(Exit::Internal, &e))?;
    text.push(b'\n');
    // Its answer may say why it did not want to hear all of it.
    let told = stream.write_all(&text);
    let answer = read_answer(&mut stream).and_then(|answer| match answer.is_empty() {
        true => Err(told.err().unwrap_or_else(|| ErrorKind::UnexpectedEof.into())),
        false => Ok(answer),
    });
    match serde_json::from_slice(&answer.map_err(broken)?) {
        Ok(Response::Ok(value)) => Ok(value),
        Ok(Response::Error(Refusal { exit, message, hint })) => {
            Err(Failure { exit: exit_of(exit), message, hint })
        }
        Err(e) => Err(Failure {
            exit: Exit::Connection,
            message: format!("control socket {}: the answer makes no sense: {e}", path.display()),
            hint: Some("is the daemon of another version?".into()),
        }),
    }
}

fn read_answer(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut reader = io::BufReader::new(stream.take(RESPONSE_MAX));
    io::BufRead::read_until(&mut reader, b'\n', &mut answer)?;
    Ok(answer)
}

/// A connection to the socket; a daemon whose queue is full is not waited for longer than `timeout`.
pub(super) fn connect(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC;
    let socket: OwnedFd =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    with_patience(&socket, timeout)?;
    with_address(path, |address| rustix::net::connect(&socket, address))?;
    Ok(UnixStream::from(socket))
}

fn not_there(path: &Path, e: &io::Error) -> Failure {
    let at = path.display();
    let start = "start it, or name its state folder by --state";
    let say = |exit, message, hint: &str| Failure { exit, message, hint: Some(hint.to_owned()) };
    match e.kind() {
        ErrorKind::NotFound => {
            say(Exit::NoDaemon, format!("no daemon runs here: there is no {at}"), start)
        }
        ErrorKind::ConnectionRefused => say(
            Exit::NoDaemon,
            format!("no daemon runs here: {at} was left by one that is gone"),
            start,
        ),
        ErrorKind::PermissionDenied => say(
            Exit::Refused,
            format!("control socket {at}: it belongs to another user"),
            "call it as root, or as the user the daemon runs as",
        ),
        ErrorKind::WouldBlock | ErrorKind::TimedOut => say(
            Exit::Connection,
            format!("control socket {at}: too many callers wait for the daemon"),
            "try again; its log may say what it waits for",
        ),
        _ => say(Exit::Connection, format!("control socket {at}: connecting: {e}"), start),
    }
}

/// The kind a daemon meant; one of another version may know more of them.
fn exit_of(code: u8) -> Exit {
    const KNOWN: [Exit; 11] = [
        Exit::Usage,
        Exit::Refused,
        Exit::Connection,
        Exit::Held,
        Exit::Partial,
        Exit::Disk,
        Exit::Differs,
        Exit::Busy,
        Exit::NotReady,
        Exit::NoDaemon,
        Exit::Internal,
    ];
    KNOWN.into_iter().find(|exit| *exit as u8 == code).unwrap_or(Exit::Internal)
}
