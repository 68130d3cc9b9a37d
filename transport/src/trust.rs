//! Which keys are trusted, and the TLS that enforces it.
//!
//! Guarantees: TLS 1.3 only, both ends prove possession of their key in the handshake, and the key's
//! digest is in the pinned set. No early data, no tickets, no resumption, one ALPN. It refuses to
//! look at certificate authorities, names, addresses or dates. Nothing survives a crash; revoking is
//! taking a key out of the set.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        NoServerSessionStorage, ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::SingleCertAndKey,
    version::TLS13,
};

use crate::identity::KeyId;

/// What both ends must offer. The number rises when links of both numbers cannot understand each
/// other; what is said on a link is versioned by the session.
pub const ALPN: &[u8] = b"farshore/1";

/// What both ends must offer to pair: an endpoint for it is used for nothing else, and one for
/// sessions never takes it.
pub const PAIRING_ALPN: &[u8] = b"farshore-pair/1";

/// What an endpoint is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Sessions with pinned peers.
    Session,
    /// Getting to know a peer's key: anyone who proves any key is let in.
    Pairing,
}

impl Purpose {
    const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Session => ALPN,
            Self::Pairing => PAIRING_ALPN,
        }
    }
}

/// The keys a peer may have: usually one, two while a key is being rotated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeySet(BTreeSet<KeyId>);

impl KeySet {
    /// No key: everybody is refused.
    #[must_use]
    pub const fn new() -> Self {
        Self(BTreeSet::new())
    }

    /// Whether `id` is allowed.
    #[must_use]
    pub fn contains(&self, id: &KeyId) -> bool {
        self.0.contains(id)
    }

    /// The keys in order.
    pub fn iter(&self) -> impl Iterator<Item = &KeyId> {
        self.0.iter()
    }
}

impl FromIterator<KeyId> for KeySet {
    fn from_iter<I: IntoIterator<Item = KeyId>>(ids: I) -> Self {
        Self(ids.into_iter().collect())
    }
}

impl From<KeyId> for KeySet {
    fn from(id: KeyId) -> Self {
        Self::from_iter([id])
    }
}

impl fmt::Display for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no key");
        }
        for (n, id) in self.0.iter().enumerate() {
            write!(f, "{}{id}", if n == 0 { "" } else { " or " })?;
        }
        Ok(())
    }
}

/// Our suites in order of preference: AES-128 is the fastest on jumbo datagrams, ChaCha is for
/// machines without AES instructions that ask for nothing else.
pub(crate) fn crypto_provider() -> Arc<CryptoProvider> {
    use aws_lc_rs::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    let cipher_suites =
        vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];
    Arc::new(CryptoProvider { cipher_suites, ..aws_lc_rs::default_provider() })
}

/// Why TLS cannot be set up; never the peer's fault.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// The library refused the settings.
    #[error("cannot set up TLS")]
    Tls(#[from] Error),
    /// QUIC's first packets need a suite that is missing.
    #[error("cannot set up QUIC's first cipher")]
    Suite(#[from] NoInitialCipherSuite),
}

/// The listening side: the peer must show a certificate whose key `pins` holds.
pub(crate) fn server_tls(
    identity: Arc<SingleCertAndKey>,
    pins: Arc<PinVerifier>,
) -> Result<QuicServerConfig, TlsSetupError> {
    let purpose = pins.purpose;
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::clone(&pins.provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(pins)
        .with_cert_resolver(identity);
    tls.alpn_protocols = vec![purpose.alpn().to_vec()];
    tls.ignore_client_order = true;
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    tls.send_tls13_tickets = 0;
    tls.max_early_data_size = 0;
    Ok(QuicServerConfig::try_from(tls)?)
}

/// The dialing side: the server must prove a key that `pins` holds.
pub(crate) fn client_tls(
    identity: Arc<SingleCertAndKey>,
    pins: Arc<PinVerifier>,
) -> Result<QuicClientConfig, TlsSetupError> {
    let purpose = pins.purpose;
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::clone(&pins.provider))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(pins)
        .with_client_cert_resolver(identity);
    tls.alpn_protocols = vec![purpose.alpn().to_vec()];
    tls.resumption = Resumption::disabled();
    tls.enable_early_data = false;
    tls.enable_sni = false;
    Ok(QuicClientConfig::try_from(tls)?)
}

/// The identity a certificate carries, whoever signed it.
pub(crate) fn key_id_of(certificate: &CertificateDer<'_>) -> Result<KeyId, Error> {
    let parsed = ParsedCertificate::try_from(certificate)?;
    Ok(KeyId::of_public_key(&parsed.subject_public_key_info()))
}

/// What the verifier of one handshake saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sighting {
    /// No certificate yet.
    Nothing,
    /// One that cannot be read.
    Unreadable,
    /// A key that is not pinned. Its possession was not proven.
    Unlisted(KeyId),
    /// A pinned key whose possession is not proven yet.
    Claimed(KeyId),
    /// A pinned key, claimed with a signature that does not verify.
    Forged(KeyId),
    /// A pinned key, proven.
    Proven(KeyId),
}

/// Verifies the peer of one handshake and remembers what it saw. Each handshake gets its own.
#[derive(Debug)]
pub(crate) struct PinVerifier {
    purpose: Purpose,
    allowed: KeySet,
    provider: Arc<CryptoProvider>,
    sighting: Mutex<Sighting>,
}

impl PinVerifier {
    pub(crate) fn new(allowed: KeySet, provider: Arc<CryptoProvider>) -> Arc<Self> {
        Self::with_purpose(Purpose::Session, allowed, provider)
    }

    /// For [`Purpose::Pairing`] `allowed` is empty and whoever proves a key is let in.
    pub(crate) fn with_purpose(
        purpose: Purpose,
        allowed: KeySet,
        provider: Arc<CryptoProvider>,
    ) -> Arc<Self> {
        let sighting = Mutex::new(Sighting::Nothing);
        Arc::new(Self { purpose, allowed, provider, sighting })
    }

    pub(crate) fn allowed(&self) -> &KeySet {
        &self.allowed
    }

    pub(crate) fn sighting(&self) -> Sighting {
        *self.sighting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn saw(&self, sighting: Sighting) {
        *self.sighting.lock().unwrap_or_else(PoisonError::into_inner) = sighting;
    }

    fn check_pin(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let id = key_id_of(certificate).inspect_err(|_| self.saw(Sighting::Unreadable))?;
        if self.purpose == Purpose::Session && !self.allowed.contains(&id) {
            self.saw(Sighting::Unlisted(id));
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        self.saw(Sighting::Claimed(id));
        Ok(())
    }

    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let id = key_id_of(certificate)?;
        let algorithms = &self.provider.signature_verification_algorithms;
        let valid = verify_tls13_signature(message, certificate, signed, algorithms)
            .inspect_err(|_| self.saw(Sighting::Forged(id)))?;
        self.saw(Sighting::Proven(id));
        Ok(valid)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

const fn tls12_refused() -> Error {
    Error::PeerIncompatible(PeerIncompatible::Tls13RequiredForQuic)
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check_pin(certificate).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12_refused())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for PinVerifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check_pin(certificate).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(tls12_refused())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

#[cfg(test)]
mod tests {
    use rustls::CipherSuite;

    use super::{KeySet, crypto_provider};
    use crate::identity::KeyId;

    #[test]
    fn aes_128_comes_first_and_chacha_last() {
        let provider = crypto_provider();
        let suites: Vec<_> = provider.cipher_suites.iter().map(|suite| suite.suite()).collect();
        assert_eq!(suites.first(), Some(&CipherSuite::TLS13_AES_128_GCM_SHA256));
        assert_eq!(suites.last(), Some(&CipherSuite::TLS13_CHACHA20_POLY1305_SHA256));
        assert!(provider.cipher_suites.iter().all(|suite| suite.tls13().is_some()));
    }

    #[test]
    fn key_sets_read_well() {
        let ids = [KeyId::from_bytes([0; 32]), KeyId::from_bytes([1; 32])];
        assert_eq!(KeySet::new().to_string(), "no key");
        let both: KeySet = ids.into_iter().collect();
        assert_eq!(both.to_string(), format!("{} or {}", ids[0], ids[1]));
        assert!(both.contains(&ids[1]) && !KeySet::from(ids[0]).contains(&ids[1]));
    }
}
