//! `farshore pair`: which keys this site trusts.

use std::cell::Cell;
use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args};
use farshore_core::path::escape_text;
use farshore_transport::{BindError, ConnectError, KeyId, Listener, SiteKey, TransportConfig};
use serde_json::json;

use super::{StateArgs, print};
use crate::exit::{Exit, Failure};
use crate::site::config::values::{parse_address, parse_duration, parse_site_name};
use crate::site::config::{ConfigError, DEFAULT_FILE, PeerAddress, SiteConfig};
use crate::site::pairing::exchange::{self, ExchangeError};
use crate::site::pairing::{Code, LIFE_MAX, Offer, PairError, Paired};
use crate::site::trust::{KeyState, TrustError, TrustFile, Trusted};
use crate::state::{State, now_ms, random_id};

/// Which site a command is for.
#[derive(Debug, Args)]
pub(super) struct SiteArgs {
    /// The site's configuration [default: /etc/farshore/farshore.toml, unless --state is given]
    #[arg(long, value_name = "FILE", conflicts_with = "state")]
    config: Option<PathBuf>,
    #[command(flatten)]
    state: StateArgs,
}

/// A site as a command on keys sees it.
pub(super) struct ThisSite {
    pub(super) state: State,
    pub(super) config: Option<SiteConfig>,
}

impl SiteArgs {
    /// The site of the configuration, or of a state folder alone.
    pub(super) fn open(&self) -> Result<ThisSite, Failure> {
        let config = match (&self.state.state, &self.config) {
            (Some(_), _) => None,
            (None, given) => {
                let file = given.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
                Some(SiteConfig::load_without_roots(&file).map_err(|e| config_failure(&e))?)
            }
        };
        let folder = config.as_ref().map(|config| config.site.state.clone());
        let folder = folder.or_else(|| self.state.state.clone());
        let state = State::open(folder.as_deref()).map_err(|e| Failure::new(Exit::Refused, &e))?;
        Ok(ThisSite { state, config })
    }
}

fn config_failure(e: &ConfigError) -> Failure {
    let failure = e.failure();
    match e {
        ConfigError::Read { .. } => failure.hint(
            "'farshore init' writes one; --config names another one; --state a folder without one",
        ),
        _ => failure,
    }
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["dial", "listen", "trust", "revoke", "list"]))]
pub(super) struct PairArgs {
    /// Pair with the site that shows a code there
    #[arg(value_name = "HOST:PORT", value_parser = parse_address)]
    dial: Option<PeerAddress>,
    /// Show a code and wait for the other site [default address: the configuration's]
    #[arg(long, value_name = "ADDR:PORT", num_args = 0..=1)]
    #[allow(clippy::option_option, reason = "the option may come with a value or without")]
    listen: Option<Option<SocketAddr>>,
    /// The code that the other site shows [default: asked for]
    #[arg(long, value_name = "CODE", requires = "dial")]
    code: Option<Code>,
    /// How long the code lives, five minutes at most
    #[arg(long = "for", value_name = "TIME", default_value = "5m", value_parser = parse_life)]
    life: Duration,
    /// Trust this key of the other site, as 'farshore key' shows it there
    #[arg(long, value_name = "KEYID", requires = "peer_name")]
    trust: Option<KeyId>,
    /// What the other site is called here [default: what it calls itself]
    #[arg(long = "as", id = "peer_name", value_name = "NAME", value_parser = parse_site_name)]
    peer_name: Option<String>,
    /// Never trust this key again
    #[arg(long, value_name = "KEYID")]
    revoke: Option<KeyId>,
    /// Why, for whoever looks later
    #[arg(long, value_name = "TEXT", requires = "revoke", default_value = "")]
    because: String,
    /// Show every key that is or was trusted
    #[arg(long)]
    list: bool,
    /// What this site calls itself [default: the configuration's]
    #[arg(long, value_name = "NAME", value_parser = parse_site_name)]
    name: Option<String>,
    /// JSON on standard output, an object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    site: SiteArgs,
}

fn parse_life(text: &str) -> Result<Duration, String> {
    let life = parse_duration(text)?;
    if life.is_zero() || life > LIFE_MAX {
        return Err(format!("'{text}': a code lives for 5m at most"));
    }
    Ok(life)
}

pub(super) fn run(args: &PairArgs) -> Result<Exit, Failure> {
    let site = args.site.open()?;
    let file = TrustFile::of(site.state.folder());
    if args.list {
        return list(args, &file);
    }
    if let Some(id) = &args.revoke {
        let revoked = file.update(|store| store.revoke(id, &args.because, now_ms()));
        let name = revoked.map_err(|e| e.failure())?;
        return say(
            args,
            &json!({"revoked": id.to_string(), "peer": name}),
            &format!(
                "revoked {id} of '{name}'\na running site closes its sessions within a second\n"
            ),
        );
    }
    let key = super::replicate::load_key(None, &site.state)?;
    if let (Some(id), Some(name)) = (args.trust, &args.peer_name) {
        if id == key.key_id() {
            let hint = "give the id that 'farshore key' shows on the other site";
            return Err(Failure::usage(format!("{id} is this site's own key"), hint));
        }
        let trusted = file.update(|store| store.trust(name, id, now_ms()));
        let trusted = trusted.map_err(|e| e.failure())?;
        return paired(args, &key, &Paired { name: name.clone(), key: id }, trusted);
    }
    by_code(args, &site, &file, &key)
}

fn say(args: &PairArgs, object: &serde_json::Value, text: &str) -> Result<Exit, Failure> {
    if args.json {
        print(&format!("{object}\n"));
    } else {
        print(text);
    }
    Ok(Exit::Done)
}

fn paired(args: &PairArgs, key: &SiteKey, with: &Paired, how: Trusted) -> Result<Exit, Failure> {
    let (name, theirs, ours) = (&with.name, with.key, key.key_id());
    let how = match how {
        Trusted::Already => "already trusted",
        Trusted::AsCurrent => "trusted",
        Trusted::AsNext => "trusted beside the former one",
    };
    say(
        args,
        &json!({"peer": name, "key": theirs.to_string(), "own_key": ours.to_string(), "state": how}),
        &format!("'{name}' {how}\n  its key   {theirs}\n  this key  {ours}\n"),
    )
}

fn list(args: &PairArgs, file: &TrustFile) -> Result<Exit, Failure> {
    let store = file.load().map_err(|e| e.failure())?;
    let word = |state| match state {
        KeyState::Current => "current",
        KeyState::Next => "next",
        KeyState::Revoked => "revoked",
    };
    let mut text = String::new();
    let mut peers = Vec::new();
    for (name, peer) in store.peers() {
        let mut keys = Vec::new();
        text.push_str(&format!("{name}\n"));
        for key in &peer.keys {
            let (id, state) = (key.id.to_string(), word(key.state));
            let (since, reason) = (escape_text(&key.since), escape_text(&key.reason));
            text.push_str(&format!("  {id}  {state} since {since}"));
            text.push_str(&if reason.is_empty() {
                "\n".to_owned()
            } else {
                format!(": {reason}\n")
            });
            keys.push(json!({"id": id, "state": state, "since": since, "reason": reason}));
        }
        peers.push(json!({"name": name, "keys": keys}));
    }
    if peers.is_empty() {
        text.push_str("nobody is trusted yet\n");
    }
    say(args, &json!({"peers": peers}), &text)
}

/// What both ends of an exchange need.
struct Party<'a> {
    file: &'a TrustFile,
    key: &'a SiteKey,
    name: String,
    expected: Option<String>,
}

impl Party<'_> {
    /// Makes the trust durable.
    fn record(&self, args: &PairArgs, with: &Paired) -> Result<Trusted, TrustError> {
        let name = args.peer_name.as_ref().unwrap_or(&with.name);
        self.file.update(|store| store.trust(name, with.key, now_ms()))
    }
}

fn by_code(
    args: &PairArgs,
    site: &ThisSite,
    file: &TrustFile,
    key: &SiteKey,
) -> Result<Exit, Failure> {
    let config = site.config.as_ref();
    let configured = config.map(|config| config.site.name.clone());
    let name = args.name.clone().or(configured).ok_or_else(|| {
        Failure::usage("this site's name is not known", "give --name, or a configuration")
    })?;
    // What the operator calls it by hand may be another name than its own.
    let expected = config.map(|config| config.peer.name.clone());
    let expected = expected.filter(|_| args.peer_name.is_none());
    // Before anybody is asked for anything: a broken store would refuse at the very end.
    file.load().map_err(|e| e.failure())?;
    let party = Party { file, key, name, expected };
    match &args.dial {
        Some(address) => dial(args, &party, address),
        None => {
            let address = args.listen.flatten();
            let address = address.or_else(|| config.and_then(|config| config.site.listen));
            let address = address.ok_or_else(|| {
                let hint =
                    "give --listen ADDR:PORT, or dial the other site: farshore pair HOST:PORT";
                Failure::usage("the configuration listens nowhere", hint)
            })?;
            listen(args, &party, address)
        }
    }
}

fn dial(args: &PairArgs, party: &Party<'_>, address: &PeerAddress) -> Result<Exit, Failure> {
    let code = match &args.code {
        Some(code) => code.clone(),
        None => ask()?,
    };
    let unresolved = |why: String| Failure {
        exit: Exit::Connection,
        message: format!("peer {address}: finding its address: {why}"),
        hint: Some("check the name, or give an address".into()),
    };
    let found = (address.host.as_str(), address.port).to_socket_addrs();
    let found = found.map_err(|e| unresolved(e.to_string()))?;
    let mut last = unresolved("no address".into());
    for addr in found {
        let mut how = Trusted::Already;
        let record = |with: &Paired| {
            how = party.record(args, with)?;
            Ok::<(), TrustError>(())
        };
        let expected = party.expected.as_deref();
        match exchange::dial(addr, party.key, &code, &party.name, expected, record) {
            Ok(with) => {
                let name = args.peer_name.clone().unwrap_or(with.name);
                return paired(args, party.key, &Paired { name, key: with.key }, how);
            }
            // Another address of the same name may be the right one; a code is tried once.
            Err(ExchangeError::Connect(e)) => last = failure(&ExchangeError::Connect(e)),
            Err(e) => return Err(failure(&e)),
        }
    }
    Err(last)
}

/// The code, from a line of standard input.
fn ask() -> Result<Code, Failure> {
    drop(write!(std::io::stderr(), "code shown on the other site: "));
    let mut line = String::new();
    // A line that never ends is none.
    let read = std::io::Read::take(std::io::stdin(), 256);
    let read = std::io::BufRead::read_line(&mut std::io::BufReader::new(read), &mut line);
    read.map_err(|e| Failure::usage(format!("reading the code: {e}"), "give it with --code"))?;
    line.parse().map_err(|e: String| Failure::usage(e, "start again, or give it with --code"))
}

fn listen(args: &PairArgs, party: &Party<'_>, address: SocketAddr) -> Result<Exit, Failure> {
    let random = random_id().map_err(|e| Failure::new(Exit::Internal, &e))?;
    let code = Code::of(*random.0.first_chunk().unwrap_or(&[0; 5]));
    let log = |line: &str| drop(writeln!(std::io::stderr(), "{}", escape_text(line)));
    let listener = Listener::bind_pairing(address, party.key, TransportConfig::pairing(), |_| ());
    let listener = listener.map_err(|e| {
        let failure = Failure::new(Exit::Connection, &e);
        match e {
            BindError::Bind { .. } => failure.hint(
                "a running site has the port: give another one with --listen, or stop it for the \
                 moment",
            ),
            _ => failure,
        }
    })?;
    let bound = listener.local_addr();
    let life = crate::site::config::values::show_duration(args.life);
    say(
        args,
        &json!({"code": code.to_string(), "listen": bound.to_string(), "for": life}),
        &format!(
            "code {code}\nlistening on {bound} for {life}\non the other site: farshore pair HOST:{}\n",
            bound.port()
        ),
    )?;
    let offer = Offer::new(code, &party.name, party.expected.as_deref(), args.life);
    let how = Cell::new(Trusted::Already);
    let record = |with: &Paired| {
        how.set(party.record(args, with)?);
        Ok::<(), TrustError>(())
    };
    let with = exchange::listen(&listener, party.key.key_id(), offer, record, &log);
    let with = with.map_err(|e| failure(&e))?;
    let name = args.peer_name.clone().unwrap_or(with.name);
    paired(args, party.key, &Paired { name, key: with.key }, how.get())
}

fn failure(e: &ExchangeError<TrustError>) -> Failure {
    let failed = |hint: &str| Failure::new(Exit::Connection, e).hint(hint);
    match e {
        ExchangeError::Record(e) => e.failure(),
        ExchangeError::Connect(why) => match **why {
            ConnectError::VersionMismatch { .. } => failed(
                "nobody waits for a pairing there: 'farshore pair --listen' on that site first",
            ),
            _ => Failure::new(Exit::Connection, &**why),
        },
        ExchangeError::Pair(why) => {
            let why = match why {
                PairError::Refused(why) => &**why,
                why => why,
            };
            match why {
                PairError::Name { .. } => failed("give --as NAME, or correct the configuration"),
                PairError::Version { .. } => Failure::new(Exit::Connection, e),
                _ => failed(
                    "nothing was written; start again with a new code, or compare the keys that \
                     'farshore key' shows and trust them with --trust",
                ),
            }
        }
        ExchangeError::Link(_) => {
            failed("'farshore pair --list' at both sites shows what was written")
        }
    }
}
