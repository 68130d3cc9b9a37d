//! The exchange of [`super`] over links.
//!
//! Guarantees: a peer has ten seconds for one exchange, and one is at work at a time; what it sends is
//! bounded; a key is recorded after both proofs and never otherwise. What a crash leaves: where the
//! dialer recorded the key and its last message is lost, the listener's side ends in an error and the
//! pairing is done again with a new code, which changes nothing at the dialer.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::bounded;
use farshore_engine::deadline::within;
use farshore_proto::close::CloseCode;
use farshore_proto::link::{Link, LinkError};
use farshore_transport::{
    ConnectError, KeyId, Listener, QuicLink, SiteKey, TransportConfig, dial_pairing,
};

use super::{Channel, Code, Dialer, MESSAGE_MAX, Offer, PairError, Paired, done};

/// Time of one exchange; both ends are machines that have the code already.
const EXCHANGE: Duration = Duration::from_secs(10);

/// Why an exchange did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError<E: std::error::Error + 'static> {
    /// By its rules.
    #[error(transparent)]
    Pair(#[from] PairError),
    /// The other site cannot be reached.
    #[error(transparent)]
    Connect(#[from] Box<ConnectError>),
    /// The line.
    #[error("pairing")]
    Link(#[from] LinkError),
    /// The key cannot be recorded.
    #[error(transparent)]
    Record(E),
}

fn send<E: std::error::Error>(link: &dyn Link, message: Vec<u8>) -> Result<(), ExchangeError<E>> {
    Ok(link.send_control(Bytes::from(message))?)
}

fn receive<E: std::error::Error>(link: &dyn Link) -> Result<Bytes, ExchangeError<E>> {
    let ended = PairError::Malformed { what: "nothing more" };
    let message = link.recv_control()?.ok_or(ended)?;
    if message.len() > MESSAGE_MAX {
        return Err(PairError::Malformed { what: "a message that is too long" }.into());
    }
    Ok(message)
}

fn unbound<E: std::error::Error>() -> ExchangeError<E> {
    PairError::Malformed { what: "a connection without a secret" }.into()
}

/// Dials `addr` and pairs by `code`; `record` makes the trust durable. Returns the site at the other end.
///
/// # Errors
/// [`ExchangeError`]; then nothing was recorded, unless the very last message could not be sent.
pub fn dial<E: std::error::Error>(
    addr: SocketAddr,
    key: &SiteKey,
    code: &Code,
    name: &str,
    expected: Option<&str>,
    record: impl FnOnce(&Paired) -> Result<(), E>,
) -> Result<Paired, ExchangeError<E>> {
    let link = dial_pairing(addr, key, &TransportConfig::pairing()).map_err(Box::new)?;
    let binding = link.channel_binding().ok_or_else(unbound)?;
    let channel = Channel { binding, dialer: key.key_id(), listener: link.peer() };
    let late = "the exchange took too long";
    let paired = within(&link, EXCHANGE, CloseCode::ProtocolViolation, late, || {
        let (dialing, message) = Dialer::begin(code, name, channel);
        send(&link, message)?;
        let (dialing, message) = dialing.answer(&receive(&link)?, expected)?;
        send(&link, message)?;
        let paired = dialing.confirmed(&receive(&link)?)?;
        record(&paired).map_err(ExchangeError::Record)?;
        send(&link, done())?;
        link.finish_control()?;
        Ok::<_, ExchangeError<E>>(paired)
    })?;
    // The last handle waits until it is delivered.
    drop(link);
    Ok(paired)
}

/// Waits at `listener` (of [`Listener::bind_pairing`]) for whoever holds the code of `offer`, until it is
/// used, dead or expired. `log` hears of every attempt.
///
/// # Errors
/// [`ExchangeError`]; then nothing was recorded.
pub fn listen<E: std::error::Error>(
    listener: &Listener,
    ours: KeyId,
    mut offer: Offer,
    record: impl Fn(&Paired) -> Result<(), E>,
    log: &dyn Fn(&str),
) -> Result<Paired, ExchangeError<E>> {
    let began = Instant::now();
    let life = offer.life;
    std::thread::scope(|scope| {
        let (over, ended) = bounded::<()>(0);
        scope.spawn(move || {
            if ended.recv_timeout(life).is_err_and(|e| e.is_timeout()) {
                listener.close();
            }
        });
        let result = loop {
            if let Err(why) = offer.check(began.elapsed()) {
                break Err(why.into());
            }
            // Closed by the end of the code's life.
            let Ok(incoming) = listener.accept() else { break Err(PairError::Expired.into()) };
            match answer(&incoming.link, ours, &mut offer, began, &record) {
                Ok(paired) => break Ok(paired),
                Err(e) => {
                    let why = farshore_engine::ingest::describe(&e);
                    log(&format!(
                        "{} with key {}: {why}; {} attempts left",
                        incoming.remote,
                        incoming.peer,
                        offer.attempts_left()
                    ));
                    // A code that was proven is used up, whatever came after.
                    if offer.used {
                        break Err(e);
                    }
                }
            }
        };
        drop(over);
        result
    })
}

fn answer<E: std::error::Error>(
    link: &QuicLink,
    ours: KeyId,
    offer: &mut Offer,
    began: Instant,
    record: &impl Fn(&Paired) -> Result<(), E>,
) -> Result<Paired, ExchangeError<E>> {
    let binding = link.channel_binding().ok_or_else(unbound)?;
    let channel = Channel { binding, dialer: link.peer(), listener: ours };
    let late = "the exchange took too long";
    let result = within(link, EXCHANGE, CloseCode::ProtocolViolation, late, || {
        let message = receive(link)?;
        let (answered, message) = offer.open(began.elapsed(), channel, &message)?;
        send(link, message)?;
        let message = receive(link)?;
        let (proven, message) = offer.proven(began.elapsed(), answered, &message)?;
        send(link, message)?;
        let paired = proven.done(&receive(link)?)?;
        record(&paired).map_err(ExchangeError::Record)?;
        Ok::<_, ExchangeError<E>>(paired)
    });
    if let Err(ExchangeError::Pair(why)) = &result {
        // Whoever went away need not hear it.
        link.send_control(Bytes::from(why.refusal())).unwrap_or(());
    }
    link.finish_control().unwrap_or(());
    result
}
