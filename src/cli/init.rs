//! `farshore init`: a configuration and a key to begin with.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{print, serve};
use crate::exit::{Exit, Failure};
use crate::site::config::values::{parse_address, parse_listen, parse_site_name};
use crate::site::config::{DEFAULT_FILE, PeerAddress, Role};
use crate::site::init::{Beginning, InitError, begin};

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// The configuration to write; never overwritten
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// This site's name
    #[arg(long, value_name = "NAME", value_parser = parse_site_name)]
    name: String,
    /// The other site's name
    #[arg(long, value_name = "NAME", value_parser = parse_site_name)]
    peer: String,
    /// A share and the folder it is kept in; may be given several times
    #[arg(long, value_name = "NAME=PATH", required = true, value_parser = serve::parse_share)]
    share: Vec<(String, PathBuf)>,
    /// What this site begins as: active or standby
    #[arg(long, value_name = "ROLE", default_value = "active")]
    role: Role,
    /// Address where the other site dials in [default: [::]:7411, unless --dial is given]
    #[arg(long, value_name = "ADDR:PORT", value_parser = parse_listen)]
    listen: Option<SocketAddr>,
    /// Where the other site is dialed
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_address)]
    dial: Option<PeerAddress>,
    /// State folder (keys, trust, catalogs)
    #[arg(long, value_name = "DIR", default_value = "/var/lib/farshore")]
    state: PathBuf,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: InitArgs) -> Result<Exit, Failure> {
    let anywhere = SocketAddr::from(([0_u16; 8], 7_411));
    let listen = args.listen.or_else(|| args.dial.is_none().then_some(anywhere));
    let beginning = Beginning {
        name: args.name,
        peer: args.peer,
        state: args.state,
        listen,
        dial: args.dial,
        role: args.role,
        shares: args.share,
    };
    let id = begin(&beginning, &args.config).map_err(|e| {
        let failure = Failure::new(Exit::Refused, &e);
        match e {
            InitError::Exists { .. } => {
                failure.hint("edit it, or move it away first; the key stays what it is")
            }
            _ => failure,
        }
    })?;
    // Shown as it would be typed, where the file is not the usual one.
    let option = match args.config.as_os_str() == DEFAULT_FILE {
        true => String::new(),
        false => format!(" --config {}", args.config.display()),
    };
    let next = match &beginning.dial {
        Some(address) => {
            format!(
                "farshore pair{option} {address}    (first 'farshore pair --listen' over there)"
            )
        }
        None => format!("farshore pair{option} --listen"),
    };
    if args.json {
        let file = args.config.to_string_lossy();
        let object = json!({"config": file, "id": id.to_string(), "next": next});
        print(&format!("{object}\n"));
    } else {
        let file = args.config.display();
        print(&format!("wrote {file}\nkey {id}\nnext: {next}\n"));
    }
    Ok(Exit::Done)
}
