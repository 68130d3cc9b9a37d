//! Who stands for a policy: detached signatures in minisign's format, and the keys a site trusts.
//!
//! Guarantees: a signature that verifies was made with the secret key of a signer on the list, over
//! exactly these bytes. The message is the component itself, so `minisign -Vm policy.wasm` checks it
//! without us. Refuses: signatures of keys that are not on the list, and the old form of signatures
//! that is not prehashed. Nothing here touches a disk or survives a crash.
//!
//! The list of signers is text: a public key in base64 a line, with a name after it if wanted. Lines
//! that begin with `#` or `untrusted comment:` are passed over, so `cat *.pub >> signers` makes one.

use farshore_core::path::escape_text;
use minisign::{KeyPair, SecretKeyBox, SignatureBox};
use minisign_verify::{PublicKey, Signature};

/// Keys of a list, at most.
pub const SIGNERS_MAX: usize = 256;

/// Bytes of a signature's text, at most.
pub const SIGNATURE_MAX: usize = 4 << 10;

/// A key, a list or a signature that is none, or one that does not fit.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// No keys could be made.
    #[error("making keys: {0}")]
    Generate(String),
    /// The secret key cannot be used.
    #[error("the secret key cannot be used, or its password is another: {0}")]
    SecretKey(String),
    /// A line of the list is no key.
    #[error("line {line} of the signers is no minisign public key")]
    Signer {
        /// Which line, counted from 1.
        line: usize,
    },
    /// More than [`SIGNERS_MAX`].
    #[error("more than {SIGNERS_MAX} signers")]
    TooManySigners,
    /// The signature is none.
    #[error("not a minisign signature")]
    Signature,
    /// Nobody on the list signed this.
    #[error("no signer on the list made this signature of this policy")]
    Unknown,
}

/// A pair of keys as the texts of their files.
#[derive(Clone)]
pub struct Keys {
    /// Keep it secret.
    pub secret: String,
    /// Give it away.
    pub public: String,
}

/// A key that is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// What the list calls it; its key where it has no name.
    pub name: String,
    key: PublicKey,
}

/// The keys that are trusted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Signers(Vec<Signer>);

/// Makes a pair of keys; without a password the secret one lies open in its file.
///
/// # Errors
/// [`SignError::Generate`].
pub fn make_keys(password: Option<&str>) -> Result<Keys, SignError> {
    let failed = |error: minisign::PError| SignError::Generate(error.to_string());
    let pair = match password {
        Some(password) => KeyPair::generate_encrypted_keypair(Some(password.to_owned())),
        None => KeyPair::generate_unencrypted_keypair(),
    }
    .map_err(failed)?;
    let secret =
        pair.sk.to_box(Some("secret key for signing Farshore policies")).map_err(failed)?;
    let public = pair.pk.to_box().map_err(failed)?;
    Ok(Keys { secret: secret.into_string(), public: public.into_string() })
}

/// The signature of a component: the text of its file. `comment` is signed with it, one line.
///
/// # Errors
/// [`SignError::SecretKey`].
pub fn sign(
    component: &[u8],
    secret: &str,
    password: Option<&str>,
    comment: &str,
) -> Result<String, SignError> {
    let failed = |error: minisign::PError| SignError::SecretKey(error.to_string());
    let secret = SecretKeyBox::from_string(secret).map_err(failed)?;
    let secret = match password {
        Some(password) => secret.into_secret_key(Some(password.to_owned())),
        None => secret.into_unencrypted_secret_key(),
    }
    .map_err(failed)?;
    let comment = escape_text(comment);
    let untrusted = Some("signature of a Farshore policy");
    minisign::sign(None, &secret, component, Some(&comment), untrusted)
        .map(|signature| signature.into_string())
        .map_err(failed)
}

/// The id of the key that made a signature, as minisign writes it.
///
/// # Errors
/// [`SignError::Signature`].
pub fn key_id(signature: &str) -> Result<String, SignError> {
    let signature = SignatureBox::from_string(signature).map_err(|_| SignError::Signature)?;
    Ok(signature.keynum().iter().rev().map(|byte| format!("{byte:02X}")).collect())
}

impl Signers {
    /// Reads a list.
    ///
    /// # Errors
    /// [`SignError::Signer`] for the first line that is no key, [`SignError::TooManySigners`].
    pub fn parse(text: &str) -> Result<Self, SignError> {
        let mut signers = Vec::new();
        for (line, text) in (1..).zip(text.lines().map(str::trim)) {
            if text.is_empty() || text.starts_with('#') || text.starts_with("untrusted comment:") {
                continue;
            }
            let (key, name) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
            let name = if name.trim().is_empty() { key } else { name.trim() };
            let name = escape_text(name);
            let key = PublicKey::from_base64(key).map_err(|_| SignError::Signer { line })?;
            if signers.len() == SIGNERS_MAX {
                return Err(SignError::TooManySigners);
            }
            signers.push(Signer { name, key });
        }
        Ok(Self(signers))
    }

    /// The signers in order.
    pub fn iter(&self) -> impl Iterator<Item = &Signer> {
        self.0.iter()
    }

    /// Whether nobody is trusted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Who signed the component.
    ///
    /// # Errors
    /// [`SignError::Signature`] and [`SignError::Unknown`].
    pub fn verify(&self, component: &[u8], signature: &str) -> Result<&Signer, SignError> {
        if signature.len() > SIGNATURE_MAX {
            return Err(SignError::Signature);
        }
        let signature = Signature::decode(signature).map_err(|_| SignError::Signature)?;
        let made_it = |signer: &&Signer| signer.key.verify(component, &signature, false).is_ok();
        self.0.iter().find(made_it).ok_or(SignError::Unknown)
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("public", &self.public).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signers(keys: &Keys) -> Signers {
        let list =
            format!("# who may\n\n{} the office\n", keys.public.lines().nth(1).expect("a key"));
        Signers::parse(&list).expect("a list")
    }

    #[test]
    fn only_a_signer_on_the_list_and_these_very_bytes_verify() {
        let keys = make_keys(None).expect("keys");
        let signature = sign(b"policy", &keys.secret, None, "mft-defaults 1.0").expect("signed");
        let list = signers(&keys);
        assert_eq!(list.verify(b"policy", &signature).expect("signed").name, "the office");
        assert!(matches!(list.verify(b"Policy", &signature), Err(SignError::Unknown)));
        let id = key_id(&signature).expect("an id");
        assert!(keys.public.lines().next().expect("a comment").ends_with(&id), "{id}");
        assert!(matches!(key_id("no signature"), Err(SignError::Signature)));
        let other = signers(&make_keys(None).expect("keys"));
        assert!(matches!(other.verify(b"policy", &signature), Err(SignError::Unknown)));
        assert!(matches!(
            Signers::default().verify(b"policy", &signature),
            Err(SignError::Unknown)
        ));
        // The files of public keys, put together, are a list.
        let list = Signers::parse(&keys.public.repeat(2)).expect("a list");
        assert_eq!(list.iter().count(), 2);
        assert!(list.verify(b"policy", &signature).is_ok());
    }

    #[test]
    fn a_changed_comment_or_a_cut_signature_is_none() {
        let keys = make_keys(None).expect("keys");
        let signature = sign(b"policy", &keys.secret, None, "of mine\nand more").expect("signed");
        let list = signers(&keys);
        assert!(list.verify(b"policy", &signature).is_ok(), "the comment stays on its line");
        let changed = signature.replace("of mine", "of thine");
        assert!(list.verify(b"policy", &changed).is_err());
        for cut in 0..signature.trim_end().len() {
            if let Some(part) = signature.get(..cut) {
                assert!(list.verify(b"policy", part).is_err(), "{cut}");
            }
        }
        let long = format!("{signature}{}", " ".repeat(SIGNATURE_MAX));
        assert!(matches!(list.verify(b"policy", &long), Err(SignError::Signature)));
        for text in ["", "\n\n\n\n", "untrusted comment: \nRWQ\ntrusted comment: \nx", "é\né\né\né"]
        {
            assert!(list.verify(b"policy", text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_wrong_line_is_named() {
        assert!(matches!(Signers::parse("#\nRWQ short\n"), Err(SignError::Signer { line: 2 })));
        let keys = make_keys(None).expect("keys");
        let many = keys.public.repeat(SIGNERS_MAX + 1);
        assert!(matches!(Signers::parse(&many), Err(SignError::TooManySigners)));
        assert!(Signers::parse("").expect("an empty list").is_empty());
    }

    #[test]
    fn a_secret_key_says_nothing_without_its_password() {
        let open = make_keys(None).expect("keys");
        assert!(!format!("{open:?}").contains(open.secret.lines().nth(1).expect("a key")));
        assert!(sign(b"policy", "no key", None, "").is_err());
        let locked = make_keys(Some("right")).expect("keys");
        assert!(sign(b"policy", &locked.secret, None, "").is_err());
        assert!(sign(b"policy", &locked.secret, Some("wrong"), "").is_err());
        let signature = sign(b"policy", &locked.secret, Some("right"), "").expect("signed");
        assert!(signers(&locked).verify(b"policy", &signature).is_ok());
    }
}
