//! Getting to know a peer's key by a short code, and keeping it known: the bytes, without I/O.
//!
//! ```text
//! dialer                                    listener (shows the code)
//!   1 open     version, name, SPAKE2 A  ─►    counts an attempt
//!                                      ◄─   2 answer   name, SPAKE2 B
//!   3 confirm  MAC of the dialer        ─►    right: the code is used up
//!                                      ◄─   4 confirm  MAC of the listener   (or: refused, why)
//!     records the listener's key
//!   5 done                              ─►    records the dialer's key
//! ```
//! Guarantees: nobody learns from an exchange whether a guess at the code was right except by making it,
//! one guess an exchange, three for a code, within its life of five minutes at most; what was listened to
//! tells nothing (SPAKE2). The MACs cover both key ids as each end's handshake saw them and a secret of
//! the TLS connection, so one in the middle, who has two connections and a key of its own, fails as if
//! the code was wrong. The dialer proves first: whoever guesses learns of a hit only when the code is used
//! up. Nothing may be recorded before [`Paired`] is there. Refuses: messages it does not know whole. No
//! bytes panic. Nothing survives a crash; a code is of one process.
//!
//! Three wrong attempts of a stranger end a code: pairing can be disturbed by who can reach the port, not
//! won.
//!
//! [`Announcement`] is what two paired sites tell each other of their keys, over links that are proven.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use farshore_transport::KeyId;
use spake2::{Ed25519Group, Identity, Password, Spake2};

use super::config::values::{SITE_NAME_MAX, parse_site_name};

pub mod exchange;

/// Longest message in bytes, either way.
pub const MESSAGE_MAX: usize = 512;
/// Longest life of a code.
pub const LIFE_MAX: Duration = Duration::from_secs(300);
/// Attempts at a code before it is dead.
pub const ATTEMPTS_MAX: u8 = 3;
/// Keys in a list of an [`Announcement`].
const KEYS_MAX: usize = 4;
/// A SPAKE2 element with the byte that says whose it is.
const ELEMENT_BYTES: usize = 33;
/// The version of the exchange.
const VERSION: u8 = 1;

/// Why two sites are not paired.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PairError {
    /// The codes differ, or somebody is in the middle.
    #[error("the code is not the one shown there, or somebody is between the two sites")]
    WrongCode,
    /// Too late.
    #[error("the code has expired")]
    Expired,
    /// Guessed at too often.
    #[error("the code was tried {ATTEMPTS_MAX} times and is dead")]
    Dead,
    /// It was used.
    #[error("the code was used")]
    Used,
    /// Another version of the exchange.
    #[error(
        "the other site pairs by version {theirs}, this one by {VERSION}; bring both to one version"
    )]
    Version {
        /// Its version.
        theirs: u8,
    },
    /// It calls itself otherwise than expected.
    #[error("the other site calls itself '{theirs}', it is expected to be '{expected}'")]
    Name {
        /// Its name.
        theirs: String,
        /// The name of the configuration.
        expected: String,
    },
    /// A message that makes no sense.
    #[error("the other site sent what does not belong here: {what}")]
    Malformed {
        /// What.
        what: &'static str,
    },
    /// The other site said no.
    #[error("the other site refuses: {0}")]
    Refused(Box<Self>),
}

impl PairError {
    const fn malformed(what: &'static str) -> Self {
        Self::Malformed { what }
    }

    /// What tells the other site, as bytes to send.
    #[must_use]
    pub fn refusal(&self) -> Vec<u8> {
        let code = match self {
            Self::WrongCode => 1,
            Self::Expired => 2,
            Self::Dead => 3,
            Self::Used => 4,
            Self::Version { .. } => 5,
            Self::Name { .. } => 6,
            Self::Malformed { .. } | Self::Refused(_) => 7,
        };
        vec![tag::REFUSED, code, VERSION]
    }

    fn of_refusal(code: u8, version: u8) -> Self {
        let why = match code {
            1 => Self::WrongCode,
            2 => Self::Expired,
            3 => Self::Dead,
            4 => Self::Used,
            5 => Self::Version { theirs: version },
            6 => Self::malformed("a site of another name"),
            _ => Self::malformed("a message it does not know"),
        };
        Self::Refused(Box::new(why))
    }
}

mod tag {
    pub(super) const OPEN: u8 = 1;
    pub(super) const ANSWER: u8 = 2;
    pub(super) const CONFIRM: u8 = 3;
    pub(super) const REFUSED: u8 = 4;
    pub(super) const DONE: u8 = 5;
    pub(super) const ANNOUNCE: u8 = 6;
}

/// A short code: eight characters, 40 bits, read aloud or typed.
#[derive(Clone, PartialEq, Eq)]
pub struct Code([u8; 8]);

/// No I, L, O and U: none looks like another, none makes a word.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

impl Code {
    /// The code of five random bytes.
    #[must_use]
    pub fn of(random: [u8; 5]) -> Self {
        let mut bits = random.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
        let mut code = [0; 8];
        for place in code.iter_mut().rev() {
            *place = ALPHABET[usize::try_from(bits & 31).unwrap_or(0)];
            bits >>= 5;
        }
        Self(code)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, byte) in self.0.iter().enumerate() {
            write!(f, "{}{}", if n == 4 { "-" } else { "" }, char::from(*byte))?;
        }
        Ok(())
    }
}

/// A code is a secret while it lives.
impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code(..)")
    }
}

impl FromStr for Code {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let err = || "a code has eight letters and digits, as in 7K2M-9QXD".to_owned();
        let typed = text.trim().bytes().filter(|b| !b"- ".contains(b));
        let mut code = Vec::with_capacity(8);
        for byte in typed.map(|b| b.to_ascii_uppercase()) {
            let meant = match byte {
                b'O' => b'0',
                b'I' | b'L' => b'1',
                other => other,
            };
            if !ALPHABET.contains(&meant) || code.len() == 8 {
                return Err(err());
            }
            code.push(meant);
        }
        code.try_into().map(Self).map_err(|_| err())
    }
}

/// The connection an exchange goes over, as this end's handshake saw it.
#[derive(Debug, Clone)]
pub struct Channel {
    /// A secret of the TLS connection.
    pub binding: [u8; 32],
    /// The key of the end that dialed.
    pub dialer: KeyId,
    /// The key of the end that listens.
    pub listener: KeyId,
}

/// Two sites that proved to each other that they hold one code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paired {
    /// What the other site calls itself.
    pub name: String,
    /// Its key.
    pub key: KeyId,
}

/// What each end proves.
struct Proofs {
    dialer: blake3::Hash,
    listener: blake3::Hash,
}

fn proofs(secret: &[u8], channel: &Channel, dialer: &str, listener: &str) -> Proofs {
    let mut said = blake3::Hasher::new_derive_key("farshore pairing transcript v1");
    let parts: [&[u8]; 5] = [
        &channel.binding,
        channel.dialer.as_bytes(),
        channel.listener.as_bytes(),
        dialer.as_bytes(),
        listener.as_bytes(),
    ];
    for part in parts {
        said.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    let said = said.finalize();
    let mac = |role: &str| blake3::keyed_hash(&blake3::derive_key(role, secret), said.as_bytes());
    Proofs {
        dialer: mac("farshore pairing proof of the dialer v1"),
        listener: mac("farshore pairing proof of the listener v1"),
    }
}

fn sides(code: &Code, channel: &Channel) -> (Password, Identity, Identity) {
    let identity = |id: &KeyId| Identity::new(id.as_bytes());
    (Password::new(code.0), identity(&channel.dialer), identity(&channel.listener))
}

fn named(tag: u8, version: &[u8], name: &str, element: &[u8]) -> Vec<u8> {
    let length = u8::try_from(name.len()).unwrap_or(0);
    let mut message = vec![tag];
    message.extend_from_slice(version);
    message.push(length);
    message.extend_from_slice(name.as_bytes());
    message.extend_from_slice(element);
    message
}

/// The name and the element of a message whose tag and version were taken off.
fn take_named(rest: &[u8]) -> Result<(String, &[u8]), PairError> {
    let short = PairError::malformed("a message that is cut");
    let (length, rest) = rest.split_first().ok_or(short.clone())?;
    let (name, element) = rest.split_at_checked(usize::from(*length)).ok_or(short.clone())?;
    let name = std::str::from_utf8(name).ok().filter(|name| name.len() <= SITE_NAME_MAX);
    let name = name.and_then(|name| parse_site_name(name).ok());
    let name = name.ok_or(PairError::malformed("a name that is none"))?;
    if element.len() == ELEMENT_BYTES { Ok((name, element)) } else { Err(short) }
}

/// The rest of a message that must have `tag`; the refusal that came in its place.
fn expect(tag: u8, message: &[u8]) -> Result<&[u8], PairError> {
    match message {
        [found, rest @ ..] if *found == tag && message.len() <= MESSAGE_MAX => Ok(rest),
        [tag::REFUSED, code, version] => Err(PairError::of_refusal(*code, *version)),
        _ => Err(PairError::malformed("another message than the next one")),
    }
}

fn check_name(theirs: &str, expected: Option<&str>) -> Result<(), PairError> {
    match expected {
        Some(expected) if expected != theirs => {
            let (theirs, expected) = (theirs.to_owned(), expected.to_owned());
            Err(PairError::Name { theirs, expected })
        }
        _ => Ok(()),
    }
}

/// A secret of both ends that hold the code.
fn finish(state: Spake2<Ed25519Group>, element: &[u8]) -> Result<Vec<u8>, PairError> {
    state.finish(element).map_err(|_| PairError::malformed("an element of no key exchange"))
}

fn confirm(proof: &blake3::Hash) -> Vec<u8> {
    [&[tag::CONFIRM][..], proof.as_bytes()].concat()
}

fn check_confirm(message: &[u8], proof: &blake3::Hash) -> Result<(), PairError> {
    let found: [u8; 32] = expect(tag::CONFIRM, message)?
        .try_into()
        .map_err(|_| PairError::malformed("a proof of another length"))?;
    // Compared in constant time.
    if blake3::Hash::from_bytes(found) == *proof { Ok(()) } else { Err(PairError::WrongCode) }
}

/// The end that dials, after its first message.
pub struct Dialer {
    state: Spake2<Ed25519Group>,
    name: String,
    channel: Channel,
}

impl Dialer {
    /// Begins: the message to send first. `name` is a valid name of a site.
    #[must_use]
    pub fn begin(code: &Code, name: &str, channel: Channel) -> (Self, Vec<u8>) {
        let (password, dialer, listener) = sides(code, &channel);
        let (state, element) = Spake2::<Ed25519Group>::start_a(&password, &dialer, &listener);
        let message = named(tag::OPEN, &[VERSION], name, &element);
        (Self { state, name: name.to_owned(), channel }, message)
    }

    /// Takes the listener's answer: the message to send next. A site of another name than `expected` is
    /// told nothing.
    ///
    /// # Errors
    /// [`PairError`].
    pub fn answer(
        self,
        message: &[u8],
        expected: Option<&str>,
    ) -> Result<(DialerProven, Vec<u8>), PairError> {
        let (name, element) = take_named(expect(tag::ANSWER, message)?)?;
        check_name(&name, expected)?;
        let secret = finish(self.state, element)?;
        let proofs = proofs(&secret, &self.channel, &self.name, &name);
        let message = confirm(&proofs.dialer);
        let paired = Paired { name, key: self.channel.listener };
        Ok((DialerProven { proof: proofs.listener, paired }, message))
    }
}

/// The end that dials, after it proved itself.
pub struct DialerProven {
    proof: blake3::Hash,
    paired: Paired,
}

impl DialerProven {
    /// Takes the listener's proof. After the key is recorded, [`done`] is to be sent.
    ///
    /// # Errors
    /// [`PairError`].
    pub fn confirmed(self, message: &[u8]) -> Result<Paired, PairError> {
        check_confirm(message, &self.proof)?;
        Ok(self.paired)
    }
}

/// The dialer's last message.
#[must_use]
pub fn done() -> Vec<u8> {
    vec![tag::DONE]
}

/// A code that is shown, and what became of it. Times are since it was made.
pub struct Offer {
    code: Code,
    name: String,
    expected: Option<String>,
    life: Duration,
    attempts: u8,
    used: bool,
}

impl Offer {
    /// A code for a site called `name`, that lives for `life`, [`LIFE_MAX`] at most. A peer of another name
    /// than `expected` is refused.
    #[must_use]
    pub fn new(code: Code, name: &str, expected: Option<&str>, life: Duration) -> Self {
        let (name, expected) = (name.to_owned(), expected.map(ToOwned::to_owned));
        Self { code, name, expected, life: life.min(LIFE_MAX), attempts: 0, used: false }
    }

    /// Why the code is good for nothing any more.
    ///
    /// # Errors
    /// [`PairError`] when it is not.
    pub fn check(&self, now: Duration) -> Result<(), PairError> {
        if self.used {
            return Err(PairError::Used);
        }
        if now >= self.life {
            return Err(PairError::Expired);
        }
        if self.attempts >= ATTEMPTS_MAX { Err(PairError::Dead) } else { Ok(()) }
    }

    /// Takes a dialer's first message: the message to answer with. That is an attempt, whatever comes of
    /// it: who leaves now has learnt as much as who goes on.
    ///
    /// # Errors
    /// [`PairError`].
    pub fn open(
        &mut self,
        now: Duration,
        channel: Channel,
        message: &[u8],
    ) -> Result<(ListenerAnswered, Vec<u8>), PairError> {
        self.check(now)?;
        let rest = expect(tag::OPEN, message)?;
        let (version, rest) = rest.split_first().unwrap_or((&0, &[]));
        if *version != VERSION {
            return Err(PairError::Version { theirs: *version });
        }
        let (name, element) = take_named(rest)?;
        check_name(&name, self.expected.as_deref())?;
        self.attempts += 1;
        let (password, dialer, listener) = sides(&self.code, &channel);
        let (state, ours) = Spake2::<Ed25519Group>::start_b(&password, &dialer, &listener);
        let secret = finish(state, element)?;
        let proofs = proofs(&secret, &channel, &name, &self.name);
        let message = named(tag::ANSWER, &[], &self.name, &ours);
        let paired = Paired { name, key: channel.dialer };
        Ok((ListenerAnswered { proofs, paired }, message))
    }

    /// Takes the dialer's proof, and with it the code is used up: the message to send next.
    ///
    /// # Errors
    /// [`PairError`].
    pub fn proven(
        &mut self,
        now: Duration,
        answered: ListenerAnswered,
        message: &[u8],
    ) -> Result<(ListenerProven, Vec<u8>), PairError> {
        // This attempt was counted; one too late or after another that succeeded is none.
        if self.used {
            return Err(PairError::Used);
        }
        if now >= self.life {
            return Err(PairError::Expired);
        }
        check_confirm(message, &answered.proofs.dialer)?;
        self.used = true;
        Ok((ListenerProven { paired: answered.paired }, confirm(&answered.proofs.listener)))
    }

    /// Attempts left.
    #[must_use]
    pub const fn attempts_left(&self) -> u8 {
        ATTEMPTS_MAX.saturating_sub(self.attempts)
    }
}

/// The end that listens, after its answer.
pub struct ListenerAnswered {
    proofs: Proofs,
    paired: Paired,
}

/// The end that listens, after both proofs.
pub struct ListenerProven {
    paired: Paired,
}

impl ListenerProven {
    /// Takes the dialer's last message: it has recorded this site's key.
    ///
    /// # Errors
    /// [`PairError`].
    pub fn done(self, message: &[u8]) -> Result<Paired, PairError> {
        match expect(tag::DONE, message)? {
            [] => Ok(self.paired),
            _ => Err(PairError::malformed("a last message with more in it")),
        }
    }
}

/// What a site tells its peer of keys, over a link that the peer proved a trusted key for. It is the
/// whole state, not a change: to say it again does nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Announcement {
    /// The key this site will use, while it changes its key.
    pub next: Option<KeyId>,
    /// Keys of the peer that this site trusts.
    pub trusts: Vec<KeyId>,
    /// Keys this site gave up.
    pub retired: Vec<KeyId>,
}

impl Announcement {
    /// As bytes; what is beyond four keys of a list is left out.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let next: Vec<KeyId> = self.next.into_iter().collect();
        let mut message = vec![tag::ANNOUNCE, VERSION];
        for list in [&next, &self.trusts, &self.retired] {
            let list = &list[..list.len().min(KEYS_MAX)];
            message.push(u8::try_from(list.len()).unwrap_or(0));
            list.iter().for_each(|id| message.extend_from_slice(id.as_bytes()));
        }
        message
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`PairError`].
    pub fn decode(message: &[u8]) -> Result<Self, PairError> {
        let rest = expect(tag::ANNOUNCE, message)?;
        let (version, mut rest) = rest.split_first().unwrap_or((&0, &[]));
        if *version != VERSION {
            return Err(PairError::Version { theirs: *version });
        }
        let mut lists = [Vec::new(), Vec::new(), Vec::new()];
        for (list, most) in lists.iter_mut().zip([1, KEYS_MAX, KEYS_MAX]) {
            let wrong = || PairError::malformed("a list of keys that is none");
            let (count, after) = rest.split_first().ok_or_else(wrong)?;
            let count = usize::from(*count);
            if count > most {
                return Err(wrong());
            }
            let (ids, after) = after.split_at_checked(count * 32).ok_or_else(wrong)?;
            let (ids, _) = ids.as_chunks::<32>();
            *list = ids.iter().map(|id| KeyId::from_bytes(*id)).collect();
            rest = after;
        }
        if !rest.is_empty() {
            return Err(PairError::malformed("an announcement with more in it"));
        }
        let [next, trusts, retired] = lists;
        Ok(Self { next: next.first().copied(), trusts, retired })
    }
}

#[cfg(test)]
mod tests;
