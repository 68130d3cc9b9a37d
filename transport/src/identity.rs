//! Who a site is: one Ed25519 key pair in one file.
//!
//! Guarantees that a created key is durable (file and directory synced) and private (mode 0600)
//! before [`SiteKey::create`] returns, and that the identity is a digest of the public key alone. It
//! refuses to overwrite a file, and to load one that others may read. A crash within `create` leaves
//! either no file, a whole one, or a part that `load` refuses by name; it is then removed by hand.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PKCS_ED25519, PublicKeyData, SerialNumber,
};
use rustls::{
    crypto::CryptoProvider,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::{CertifiedKey, SingleCertAndKey},
};

/// A key file is about 240 bytes; anything far above is something else.
const KEY_FILE_BYTES_MAX: u64 = 16 << 10;
/// What a key id begins with when written.
const KEY_ID_PREFIX: &str = "fsk1-";

/// A site's public identity: BLAKE3 of its SubjectPublicKeyInfo.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 32]);

impl KeyId {
    /// The identity of a DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn of_public_key(spki_der: &[u8]) -> Self {
        Self(*blake3::hash(spki_der).as_bytes())
    }

    /// The digest itself.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A digest that was stored.
    #[must_use]
    pub const fn from_bytes(digest: [u8; 32]) -> Self {
        Self(digest)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(KEY_ID_PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What is wrong with a written key id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyIdError {
    /// It does not begin with `fsk1-`.
    #[error("key id does not begin with \"fsk1-\"")]
    MissingPrefix,
    /// It does not have 64 digits.
    #[error("key id has {found} characters after \"fsk1-\", it must have 64")]
    WrongLength {
        /// Characters after the prefix.
        found: usize,
    },
    /// A character is not a lowercase hexadecimal digit.
    #[error("key id has {found:?} at position {at}, only 0-9 and a-f are allowed")]
    NotLowercaseHex {
        /// Position after the prefix, from 1.
        at: usize,
        /// The character there.
        found: char,
    },
}

impl FromStr for KeyId {
    type Err = KeyIdError;

    fn from_str(written: &str) -> Result<Self, KeyIdError> {
        let digits = written.strip_prefix(KEY_ID_PREFIX).ok_or(KeyIdError::MissingPrefix)?;
        let found = digits.chars().count();
        if found != 64 {
            return Err(KeyIdError::WrongLength { found });
        }
        let mut digest = [0; 32];
        for (at, character) in digits.chars().enumerate() {
            let value = match character {
                '0'..='9' => character as u32 - '0' as u32,
                'a'..='f' => character as u32 - 'a' as u32 + 10,
                _ => return Err(KeyIdError::NotLowercaseHex { at: at + 1, found: character }),
            };
            digest[at / 2] = digest[at / 2] << 4 | value.to_le_bytes()[0];
        }
        Ok(Self(digest))
    }
}

/// Why a site key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SiteKeyError {
    /// The system gave no key pair.
    #[error("site key: cannot generate a key pair")]
    Generate(#[source] rcgen::Error),
    /// The file cannot be read.
    #[error("site key {}: cannot be read", path.display())]
    Read {
        /// The key file.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// It is a folder, a device or a pipe.
    #[error("site key {}: not a regular file", path.display())]
    NotAFile {
        /// The key file.
        path: PathBuf,
    },
    /// Others may read the secret.
    #[error(
        "site key {0}: readable by others than its owner (mode {mode:04o}); run: chmod 600 {0}",
        path.display()
    )]
    TooOpen {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The content is not an Ed25519 key in PKCS#8 PEM.
    #[error("site key {}: not an Ed25519 private key in PKCS#8 PEM", path.display())]
    NotAKey {
        /// The key file.
        path: PathBuf,
        /// What the parser said.
        #[source]
        source: rcgen::Error,
    },
    /// The file is far too large or not text.
    #[error("site key {}: not a key file (too large, or not text)", path.display())]
    NotText {
        /// The key file.
        path: PathBuf,
    },
    /// There is a file already.
    #[error("site key {}: exists already and is not overwritten", path.display())]
    Exists {
        /// The key file.
        path: PathBuf,
    },
    /// The new file cannot be made durable.
    #[error("site key {}: cannot {step}", path.display())]
    Write {
        /// The key file.
        path: PathBuf,
        /// What was being done, in the infinitive.
        step: &'static str,
        /// The system's word.
        #[source]
        source: io::Error,
    },
}

/// A site's secret key pair. Its `Debug` shows the identity only.
pub struct SiteKey {
    pair: KeyPair,
    id: KeyId,
}

impl fmt::Debug for SiteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SiteKey").field(&self.id).finish()
    }
}

impl SiteKey {
    /// A new key, in memory only.
    ///
    /// # Errors
    /// [`SiteKeyError::Generate`] when the system has no randomness.
    pub fn generate() -> Result<Self, SiteKeyError> {
        KeyPair::generate_for(&PKCS_ED25519).map(Self::of_pair).map_err(SiteKeyError::Generate)
    }

    /// Reads the key at `path`, a PKCS#8 PEM file that only its owner may read.
    ///
    /// # Errors
    /// [`SiteKeyError`] naming the file and what to do about it.
    pub fn load(path: &Path) -> Result<Self, SiteKeyError> {
        let read = |source| SiteKeyError::Read { path: path.into(), source };
        // Not blocking, so that a pipe put there cannot hold us.
        let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
        let file =
            OpenOptions::new().read(true).custom_flags(nonblocking).open(path).map_err(read)?;
        let metadata = file.metadata().map_err(read)?;
        if !metadata.is_file() {
            return Err(SiteKeyError::NotAFile { path: path.into() });
        }
        let mode = metadata.mode() & 0o7777;
        let mut pem = Vec::new();
        file.take(KEY_FILE_BYTES_MAX + 1).read_to_end(&mut pem).map_err(read)?;
        let text = String::from_utf8(pem)
            .ok()
            .filter(|text| text.len() as u64 <= KEY_FILE_BYTES_MAX)
            .ok_or_else(|| SiteKeyError::NotText { path: path.into() })?;
        let key = KeyPair::from_pkcs8_pem_and_sign_algo(&text, &PKCS_ED25519)
            .map(Self::of_pair)
            .map_err(|source| SiteKeyError::NotAKey { path: path.into(), source })?;
        // Last: what to do about it is right for a key only, not for any file somebody named.
        if mode & 0o077 != 0 {
            return Err(SiteKeyError::TooOpen { path: path.into(), mode });
        }
        Ok(key)
    }

    /// Generates a key and stores it at `path`, which must not exist: created exclusively with mode
    /// 0600, written, synced, its directory synced.
    ///
    /// # Errors
    /// [`SiteKeyError`]; the file is removed again when it cannot be completed.
    pub fn create(path: &Path) -> Result<Self, SiteKeyError> {
        let key = Self::generate()?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => SiteKeyError::Exists { path: path.into() },
            _ => SiteKeyError::Write { path: path.into(), step: "create the file", source },
        })?;
        if let Err((step, source)) = key.store(file, path) {
            // Best effort: the failure that is reported is the one that matters.
            drop(std::fs::remove_file(path));
            return Err(SiteKeyError::Write { path: path.into(), step, source });
        }
        Ok(key)
    }

    fn store(&self, mut file: File, path: &Path) -> Result<(), (&'static str, io::Error)> {
        file.write_all(self.pair.serialize_pem().as_bytes()).map_err(|e| ("write the key", e))?;
        file.sync_all().map_err(|e| ("sync the file", e))?;
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|e| ("sync the file's directory", e))
    }

    /// A secret that is the same in every process with this key: what a listener started anew tells
    /// peers of its former life is proven by it.
    pub(crate) fn reset_secret(&self) -> [u8; 32] {
        blake3::derive_key("farshore stateless reset v1", &self.pair.serialize_der())
    }

    pub(crate) const fn pair(&self) -> &KeyPair {
        &self.pair
    }

    /// The public identity of this key.
    #[must_use]
    pub const fn key_id(&self) -> KeyId {
        self.id
    }

    fn of_pair(pair: KeyPair) -> Self {
        let id = KeyId::of_public_key(&pair.subject_public_key_info());
        Self { pair, id }
    }

    /// A self-signed certificate for this key, made anew: TLS wants one, we do not. It is as small
    /// as can be, for each handshake carries two; its dates mean nothing.
    pub(crate) fn certified(
        &self,
        provider: &CryptoProvider,
    ) -> Result<Arc<SingleCertAndKey>, CertificateError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.serial_number = Some(SerialNumber::from(1));
        let certificate = params.self_signed(&self.pair)?;
        let secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pair.serialize_der()));
        let certified = CertifiedKey::from_der(vec![certificate.der().clone()], secret, provider)?;
        Ok(Arc::new(SingleCertAndKey::from(certified)))
    }
}

/// Why the certificate that carries the key cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// It cannot be signed.
    #[error("site key: cannot sign its certificate")]
    Sign(#[from] rcgen::Error),
    /// TLS does not take the key.
    #[error("site key: not accepted by TLS")]
    Tls(#[from] rustls::Error),
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustls::server::ParsedCertificate;

    use super::{KeyId, KeyIdError, SiteKey, SiteKeyError};

    #[test]
    fn key_ids_read_back_and_name_what_is_wrong() {
        let id = KeyId::of_public_key(b"key");
        let written = id.to_string();
        assert_eq!(written.len(), 69);
        assert_eq!(written.parse::<KeyId>(), Ok(id));
        assert_eq!("fsk2-00".parse::<KeyId>(), Err(KeyIdError::MissingPrefix));
        assert_eq!("fsk1-00".parse::<KeyId>(), Err(KeyIdError::WrongLength { found: 2 }));
        let upper = written.to_uppercase().replacen("FSK1", "fsk1", 1);
        assert!(matches!(upper.parse::<KeyId>(), Err(KeyIdError::NotLowercaseHex { .. })));
        let wide = format!("fsk1-{}", "é".repeat(64));
        let found = 'é';
        assert_eq!(wide.parse::<KeyId>(), Err(KeyIdError::NotLowercaseHex { at: 1, found }));
    }

    #[test]
    fn a_created_key_loads_and_is_never_overwritten() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("site.key");
        let created = SiteKey::create(&path).expect("create");
        assert_eq!(SiteKey::load(&path).expect("load").key_id(), created.key_id());
        let mode = std::fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(SiteKey::create(&path), Err(SiteKeyError::Exists { .. })));
        assert!(!format!("{created:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_key_others_may_read_is_refused_with_the_cure() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("site.key");
        SiteKey::create(&path).expect("create");
        for mode in [0o640, 0o604, 0o610, 0o602] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
            let error = SiteKey::load(&path).expect_err("too open");
            let words = error.to_string();
            assert!(words.contains(&format!("chmod 600 {}", path.display())), "{words}");
            assert!(words.contains(&format!("{mode:04o}")), "{words}");
        }
    }

    #[test]
    fn what_is_not_a_key_is_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("site.key");
        let put = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("write");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
            SiteKey::load(&path).expect_err("not a key")
        };
        assert!(matches!(put(b""), SiteKeyError::NotAKey { .. }));
        assert!(matches!(put(b"-----BEGIN PRIVATE KEY-----\n"), SiteKeyError::NotAKey { .. }));
        assert!(matches!(put(&[0xff; 10]), SiteKeyError::NotText { .. }));
        assert!(matches!(put(&vec![b'a'; 1 << 20]), SiteKeyError::NotText { .. }));
        let ecdsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("key");
        assert!(matches!(put(ecdsa.serialize_pem().as_bytes()), SiteKeyError::NotAKey { .. }));
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700))
            .expect("chmod");
        assert!(matches!(SiteKey::load(folder.path()), Err(SiteKeyError::NotAFile { .. })));
        // Nobody is told to close a file that is no key.
        std::fs::write(&path, "root:x:0:0").expect("write");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("chmod");
        assert!(matches!(SiteKey::load(&path), Err(SiteKeyError::NotAKey { .. })));
        assert!(matches!(SiteKey::load(&path.join("x")), Err(SiteKeyError::Read { .. })));
    }

    #[test]
    fn the_certificate_carries_the_identity() {
        let key = SiteKey::generate().expect("key");
        let certificate = rcgen::CertificateParams::new(vec!["x".to_owned()])
            .and_then(|params| params.self_signed(&key.pair))
            .expect("certificate");
        let parsed = ParsedCertificate::try_from(certificate.der()).expect("parse");
        assert_eq!(KeyId::of_public_key(&parsed.subject_public_key_info()), key.key_id());
    }
}
