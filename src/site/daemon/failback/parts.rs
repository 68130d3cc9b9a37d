//! What is carried over a link that was called for, in parts. The other site is believed nothing: what it
//! sends is bounded.

use super::*;

/// Bytes of a list that are taken from the other site, which goes to a file.
pub(super) const LIST_LEN_MAX: u64 = 64 << 30;
/// Of what stands before a list, or is answered: some names and numbers.
pub(super) const ANSWER_LEN_MAX: u64 = 16 << 20;
/// Of a word of what is to be done.
pub(super) const WORD_LEN_MAX: u64 = 16;

/// Sends all of `from` in parts.
pub(super) fn send_parts(link: &QuicLink, from: &mut dyn Read) -> Result<(), Failure> {
    let failed = |e: &dyn std::error::Error| Failure::new(Exit::Connection, e);
    loop {
        let mut bytes = Vec::new();
        from.take(PART_LEN_MAX as u64).read_to_end(&mut bytes).map_err(|e| failed(&e))?;
        let last = bytes.len() < PART_LEN_MAX;
        let part = Message::Part { last, bytes };
        link.send_control(Bytes::from(part.to_bytes())).map_err(|e| failed(&e))?;
        if last {
            return Ok(());
        }
    }
}

/// Receives parts up to the last one, of `len_max` bytes at most.
pub(super) fn receive_parts(
    link: &QuicLink,
    to: &mut dyn Write,
    len_max: u64,
) -> Result<(), Failure> {
    match receive_parts_or_end(link, to, len_max)? {
        true => Ok(()),
        false => Err(broken("the other site ended early".into())),
    }
}

fn broken(text: String) -> Failure {
    Failure { exit: Exit::Connection, message: text, hint: None }
}

/// What was taken with `more`, unless that is too much.
fn within(taken: u64, more: u64, len_max: u64) -> Result<u64, Failure> {
    let taken = taken.saturating_add(more);
    match taken <= len_max {
        true => Ok(taken),
        false => Err(broken(format!("the other site sends more than {len_max} bytes"))),
    }
}

/// The same; false where the other site has ended before the first.
pub(super) fn receive_parts_or_end(
    link: &QuicLink,
    to: &mut dyn Write,
    len_max: u64,
) -> Result<bool, Failure> {
    let failed = |e: &dyn std::error::Error| Failure::new(Exit::Connection, e);
    let mut taken = 0_u64;
    loop {
        let received = link.recv_control();
        let is_first = taken == 0;
        let bytes = match received {
            Ok(Some(bytes)) => bytes,
            Ok(None) if is_first => return Ok(false),
            Ok(None) => return Err(broken("the other site ended early".into())),
            Err(LinkError::ClosedByPeer { code, .. })
                if is_first && code == CloseCode::Done as u32 =>
            {
                return Ok(false);
            }
            Err(e) => return Err(failed(&e)),
        };
        match Message::from_bytes(&bytes).map_err(|e| failed(&e))? {
            Message::Part { last, bytes } => {
                taken = within(taken, bytes.len() as u64, len_max)?;
                to.write_all(&bytes).map_err(|e| failed(&e))?;
                if last {
                    return Ok(true);
                }
            }
            Message::Refused { text, .. } => {
                return Err(broken(format!("the other site refused: {text}")));
            }
            other => return Err(broken(format!("'{}' is no part", other.name()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_bounded() {
        assert_eq!(within(0, WORD_LEN_MAX, WORD_LEN_MAX).ok(), Some(WORD_LEN_MAX));
        assert!(within(WORD_LEN_MAX, 1, WORD_LEN_MAX).is_err());
        assert!(within(1, u64::MAX, u64::MAX - 1).is_err());
    }
}
