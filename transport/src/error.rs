//! Why links are lost, in words that are safe to show.
//!
//! Guarantees that nothing a peer said reaches a terminal or a log unescaped, and that every error
//! of this crate answers whether trying again can help. It holds no state; nothing survives a crash.

use farshore_proto::link::LinkError;

/// Longest close reason sent or shown, in bytes.
pub(crate) const REASON_BYTES_MAX: usize = 256;

/// Whether the same call can succeed later without anybody changing anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Try again at once.
    Now,
    /// Try again, waiting longer each time.
    Backoff,
    /// A person has to change something first.
    Never,
}

/// The transport's own account of a lost link: the source of [`LinkError::Lost`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LostCause {
    /// Nothing was heard from the peer for the idle timeout.
    #[error("the peer fell silent for longer than the idle timeout")]
    Silent,
    /// The peer lost its state of the connection, as after a restart.
    #[error("the peer no longer knows the connection, it may have restarted")]
    Reset,
    /// This end closed the link before.
    #[error("the link was closed by this end")]
    ClosedHere,
    /// The peer's listener refused this site's key.
    #[error(
        "the peer refused this site's key; start 'farshore serve' there with --allow and its id"
    )]
    KeyRefused,
    /// The QUIC layer ended the connection.
    #[error("transport failure: {detail}")]
    Transport {
        /// QUIC's words, escaped.
        detail: String,
    },
    /// The peer gave up the stream without finishing it.
    #[error("the peer reset the stream (code {code})")]
    StreamReset {
        /// The peer's code.
        code: u64,
    },
    /// The peer does not want the rest of the stream.
    #[error("the peer stopped the stream (code {code})")]
    StreamStopped {
        /// The peer's code.
        code: u64,
    },
    /// The stream was finished in the middle of what was expected.
    #[error("the stream ended early: {missing} bytes missing")]
    EndedEarly {
        /// Bytes expected and not there.
        missing: usize,
    },
    /// The stream was finished or reset by this end before.
    #[error("the stream was already finished by this end")]
    Finished,
    /// The peer acknowledged nothing more for the drain timeout.
    #[error("the peer did not take what was sent within the drain timeout")]
    Undelivered,
    /// The peer does not speak Farshore on its control stream.
    #[error("the peer's control stream does not begin with the farshore preamble")]
    BadPreamble,
}

impl LostCause {
    /// This cause as a [`LinkError`] that names the step.
    pub(crate) fn during(self, step: &'static str) -> LinkError {
        LinkError::Lost { step, source: Box::new(self) }
    }
}

/// What a connection's end means for whoever was using the link.
pub(crate) fn connection_lost(step: &'static str, error: &quinn::ConnectionError) -> LinkError {
    use quinn::ConnectionError as E;
    match error {
        E::ApplicationClosed(close) => LinkError::ClosedByPeer {
            code: u32::try_from(close.error_code.into_inner()).unwrap_or(u32::MAX),
            reason: escape(&close.reason),
        },
        E::TimedOut => LostCause::Silent.during(step),
        E::Reset => LostCause::Reset.during(step),
        E::LocallyClosed => LostCause::ClosedHere.during(step),
        E::ConnectionClosed(close) if is_key_refusal(close.error_code) => {
            LostCause::KeyRefused.during(step)
        }
        other => LostCause::Transport { detail: escape(other.to_string().as_bytes()) }.during(step),
    }
}

/// TLS alerts that mean "not with that key": access_denied, bad_certificate, certificate_unknown,
/// certificate_required, unknown_ca.
pub(crate) fn is_key_refusal(code: quinn::TransportErrorCode) -> bool {
    [49, 42, 46, 116, 48].into_iter().any(|alert| code == quinn::TransportErrorCode::crypto(alert))
}

/// Makes foreign bytes harmless on a terminal and in a log: at most 256 bytes are looked at, invalid
/// UTF-8 is replaced, and control, bidirectional, invisible and line-breaking characters become
/// `\u{..}`.
#[must_use]
pub fn escape(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(REASON_BYTES_MAX)];
    let mut shown = String::with_capacity(cut.len());
    for character in String::from_utf8_lossy(cut).chars() {
        if character == '\\' || is_deceptive(character) {
            shown.extend(character.escape_unicode());
        } else {
            shown.push(character);
        }
    }
    shown
}

fn is_deceptive(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

/// Cuts our own words to what may travel, at a character boundary.
pub(crate) fn cut_reason(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::{cut_reason, escape};

    #[test]
    fn controls_and_bidi_are_escaped() {
        let shown = escape("a\u{1b}[31m\r\n\u{9b}\u{7f}\u{202e}\u{2066}é\\".as_bytes());
        assert_eq!(shown, "a\\u{1b}[31m\\u{d}\\u{a}\\u{9b}\\u{7f}\\u{202e}\\u{2066}é\\u{5c}");
        assert_eq!(escape(b"\xff\x00"), "\u{fffd}\\u{0}");
        assert!(escape(&[b'x'; 10_000]).len() <= 256);
    }

    #[test]
    fn our_words_are_cut_at_a_character() {
        let long = "é".repeat(200);
        assert_eq!(cut_reason(&long).len(), 256);
        let odd = format!("a{long}");
        assert_eq!(cut_reason(&odd).len(), 255);
        assert_eq!(cut_reason("short"), "short");
    }
}
