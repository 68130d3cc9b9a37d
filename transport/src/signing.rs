//! What a site says by its own hand: a text and a signature that travel together, to be checked later by
//! whoever knows the site's key id.
//!
//! Guarantees: a signature is good for one text in one context alone; nothing that is signed for TLS passes as one, and
//! the reverse: the text of either begins otherwise. It carries its public key, whose digest is the key id, so nothing else
//! is needed to check it; whose key that is, the one who checks has to know. Nothing panics on bytes that were
//! written by somebody else.

use std::fmt;
use std::str::FromStr;

use rcgen::{PublicKeyData, SigningKey};
use rustls::pki_types::alg_id;

use crate::identity::{KeyId, SiteKey};

/// What the DER of an Ed25519 SubjectPublicKeyInfo begins with (RFC 8410, section 4); the key follows.
const SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A signature, and the key it is by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature {
    key: [u8; 32],
    bytes: [u8; 64],
}

/// Why a text is not signed by whom it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// It is not 64 and 128 lowercase hexadecimal digits with a space between.
    #[error("a signature is a key of 64 hex digits, a space, and 128 more")]
    Malformed,
    /// The text is another one, or the signature.
    #[error("the signature is not of this text")]
    Wrong,
    /// The system cannot check any.
    #[error("no Ed25519 in this build")]
    Unavailable,
}

/// What is signed: no text of TLS begins so, and no context holds a zero.
fn message(context: &str, text: &[u8]) -> Vec<u8> {
    let mut message = format!("farshore signed {context}").into_bytes();
    message.push(0);
    message.extend_from_slice(text);
    message
}

impl SiteKey {
    /// Signs `text` for `context`, a name of this use alone.
    ///
    /// # Errors
    /// What the cryptographic library says.
    pub fn sign(&self, context: &str, text: &[u8]) -> Result<Signature, rcgen::Error> {
        let pair = self.pair();
        let signed = pair.sign(&message(context, text))?;
        let malformed = |_| rcgen::Error::RemoteKeyError;
        let key = pair.der_bytes().try_into().map_err(malformed)?;
        Ok(Signature { key, bytes: signed.try_into().map_err(|_| rcgen::Error::RemoteKeyError)? })
    }
}

impl Signature {
    /// The identity of the key it is by, whether it is good or not.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        KeyId::of_public_key(&[&SPKI_PREFIX[..], &self.key].concat())
    }

    /// Whether `text` was signed for `context` with the key it names.
    ///
    /// # Errors
    /// [`SignatureError`] when it was not.
    pub fn verify(&self, context: &str, text: &[u8]) -> Result<KeyId, SignatureError> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let all = provider.signature_verification_algorithms.all;
        let algorithm = all.iter().find(|one| one.public_key_alg_id() == alg_id::ED25519);
        let algorithm = algorithm.ok_or(SignatureError::Unavailable)?;
        algorithm
            .verify_signature(&self.key, &message(context, text), &self.bytes)
            .map_err(|_| SignatureError::Wrong)?;
        Ok(self.key_id())
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(" ")?;
        self.bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Signature").field(&self.key_id()).finish()
    }
}

impl FromStr for Signature {
    type Err = SignatureError;

    fn from_str(written: &str) -> Result<Self, SignatureError> {
        let (key, bytes) = written.split_once(' ').ok_or(SignatureError::Malformed)?;
        Ok(Self { key: unhex(key)?, bytes: unhex(bytes)? })
    }
}

fn unhex<const N: usize>(digits: &str) -> Result<[u8; N], SignatureError> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    let digits = digits.as_bytes();
    if digits.len() != 2 * N {
        return Err(SignatureError::Malformed);
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let (high, low) = (digit(pair[0]), digit(pair[1]));
        *byte = high.zip(low).map(|(h, l)| h << 4 | l).ok_or(SignatureError::Malformed)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::{Signature, SignatureError};
    use crate::identity::SiteKey;

    #[test]
    fn a_signature_is_good_for_its_text_its_context_and_its_key() {
        let (key, other) = (SiteKey::generate().expect("key"), SiteKey::generate().expect("key"));
        let signature = key.sign("a report", b"the text").expect("signed");
        assert_eq!(signature.verify("a report", b"the text"), Ok(key.key_id()));
        assert_eq!(signature.verify("a report", b"the texT"), Err(SignatureError::Wrong));
        assert_eq!(signature.verify("a reporu", b"the text"), Err(SignatureError::Wrong));
        let written = signature.to_string();
        assert_eq!(written.parse(), Ok(signature));
        let theirs = other.sign("a report", b"the text").expect("signed");
        assert_ne!(theirs.key_id(), key.key_id());
        // Under another's name it is none.
        let (_, bytes) = written.split_once(' ').expect("two");
        let theirs = theirs.to_string();
        let (their_key, _) = theirs.split_once(' ').expect("two");
        let forged: Signature = format!("{their_key} {bytes}").parse().expect("of the form");
        assert_eq!(forged.verify("a report", b"the text"), Err(SignatureError::Wrong));
    }

    #[test]
    fn what_is_no_signature_is_refused() {
        let key = SiteKey::generate().expect("key");
        let written = key.sign("x", b"").expect("signed").to_string();
        for other in
            ["", " ", &written[1..], &written[..written.len() - 1], &written.to_uppercase()]
        {
            assert_eq!(other.parse::<Signature>(), Err(SignatureError::Malformed), "{other}");
        }
        // A key that is no point of the curve is no key, and nothing breaks.
        let absurd: Signature =
            format!("{} {}", "ff".repeat(32), "ff".repeat(64)).parse().expect("form");
        assert_eq!(absurd.verify("x", b""), Err(SignatureError::Wrong));
    }
}
