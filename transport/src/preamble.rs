//! The first bytes of a link, each way, on the control stream.
//!
//! Guarantees that the control stream exists at both ends before anything is said on it (QUIC shows
//! a stream to the peer only with its first bytes), and that the dialer knows the listener accepted
//! its key: TLS 1.3 tells it nothing about that. It refuses a peer that begins otherwise.

use quinn::{Connection, ConnectionError, ReadExactError, RecvStream, SendStream};

/// What both ends begin with.
pub(crate) const PREAMBLE: [u8; 4] = *b"FSL1";
/// Control messages go before bulk bytes.
const CONTROL_PRIORITY: i32 = 1;

/// Why the preamble failed.
#[derive(Debug)]
pub(crate) enum PreambleError {
    /// The connection ended first.
    Connection(ConnectionError),
    /// Something else was said, or nothing.
    Wrong,
}

/// The dialer's part before the answer.
pub(crate) async fn open(
    connection: &Connection,
) -> Result<(SendStream, RecvStream), PreambleError> {
    let (send, receive) = connection.open_bi().await.map_err(PreambleError::Connection)?;
    let send = say(send).await?;
    Ok((send, receive))
}

/// The listener's part.
pub(crate) async fn answer(
    connection: &Connection,
) -> Result<(SendStream, RecvStream), PreambleError> {
    let (send, mut receive) = connection.accept_bi().await.map_err(PreambleError::Connection)?;
    hear(&mut receive).await?;
    let send = say(send).await?;
    Ok((send, receive))
}

/// Reads the peer's preamble.
pub(crate) async fn hear(receive: &mut RecvStream) -> Result<(), PreambleError> {
    let mut said = [0; PREAMBLE.len()];
    match receive.read_exact(&mut said).await {
        Ok(()) if said == PREAMBLE => Ok(()),
        Err(ReadExactError::ReadError(quinn::ReadError::ConnectionLost(lost))) => {
            Err(PreambleError::Connection(lost))
        }
        _ => Err(PreambleError::Wrong),
    }
}

async fn say(mut send: SendStream) -> Result<SendStream, PreambleError> {
    drop(send.set_priority(CONTROL_PRIORITY));
    match send.write_all(&PREAMBLE).await {
        Ok(()) => Ok(send),
        Err(quinn::WriteError::ConnectionLost(lost)) => Err(PreambleError::Connection(lost)),
        Err(_) => Err(PreambleError::Wrong),
    }
}
