//! Further nodes of the production site, which mount its share too and report what changes there.
//!
//! They are processes of this machine with mounts of their own of one tmpfs. Root only: mounts, fanotify.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::{BINARY, farshore, is_root, shown, text};
use crate::pair::{Daemon, Dials, Pair, Site, there};

const NAMES: [&str; 3] = ["n2", "n3", "n4"];

fn pair() -> (Pair, Vec<Site>) {
    let pair = Pair::with(Dials::Recovery, "nodes = [\"n2\", \"n3\", \"n4\"]");
    let nodes = NAMES.map(|name| node(&pair, name)).into();
    (pair, nodes)
}

/// A node that mounts the production site's share, and is trusted there.
pub(crate) fn node(pair: &Pair, name: &'static str) -> Site {
    let folder = pair.production.tree.parent().unwrap().parent().unwrap().join(name);
    let (tree, state, config) =
        (folder.join("homes"), folder.join("state"), folder.join("farshore.toml"));
    fs::create_dir_all(&tree).unwrap();
    fs::create_dir_all(&state).unwrap();
    rustix::mount::mount_bind(&pair.production.tree, &tree).unwrap();
    let written = format!(
        "[site]\nname = \"{name}\"\nstate = \"{}\"\n[peer]\nname = \"production\"\ndial = \"{}\"\n\
         [[share]]\nname = \"homes\"\npath = \"{}\"\nrole = \"active\"\n",
        text(&state),
        pair.address,
        text(&tree),
    );
    fs::write(&config, written).unwrap();
    let key = farshore(&["key", "--state", text(&state)]);
    let key = String::from_utf8(key.stdout).unwrap().trim().to_owned();
    let node = Site { name, tree, state, config, key };
    trusts(&pair.production, &node);
    trusts(&node, &pair.production);
    node
}

fn trusts(site: &Site, other: &Site) {
    let config = text(&site.config);
    let args = ["pair", "--config", config, "--trust", &other.key, "--as", other.name];
    let paired = farshore(&args);
    assert!(paired.status.success(), "{}", shown(&paired));
}

/// The production site's daemon where the kernel tells it of no change: fanotify needs more than it has,
/// and it may have no inotify.
fn blind(site: &Site) -> Daemon {
    let script = "echo 0 > /proc/sys/user/max_inotify_instances && exec \"$0\" \"$@\"";
    let child = Command::new("unshare")
        .args(["-U", "-r", "sh", "-c", script, BINARY, "serve", "--config", text(&site.config)])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let daemon = Daemon::of(child);
    daemon.wait_for("ready");
    daemon
}

fn states(share: &Value) -> Vec<String> {
    let nodes = share["capture"]["nodes"].as_array().cloned().unwrap_or_default();
    nodes.iter().map(|node| node["state"].as_str().unwrap_or_default().to_owned()).collect()
}

fn all_report(pair: &Pair) {
    pair.wait(&pair.production, "all nodes reporting, and all looked at", |share| {
        let states = states(share);
        states.len() == NAMES.len()
            && states.iter().all(|state| state == "ok")
            && share["recovery_point"].is_object()
            && share["capture"]["whole_look_percent"].is_null()
    });
}

/// Waits until a file is at the standby, or is not.
fn is_there(pair: &Pair, path: &str, wanted: bool) {
    pair.wait(&pair.recovery, &format!("{path} there: {wanted}"), |_| {
        there(pair, path).exists() == wanted
    });
}

#[test]
fn what_nodes_alone_see_arrives_and_what_nobody_saw_by_a_whole_look() {
    if !is_root() {
        return;
    }
    let (pair, nodes) = pair();
    pair.write("acct1/inbound/one", b"1");
    let (_there, _here) = (pair.recovery.start(), blind(&pair.production));
    let daemons: Vec<Daemon> = nodes.iter().map(Site::capture).collect();
    all_report(&pair);
    let look = |pair: &Pair| pair.status(&pair.production)["shares"][0]["capture"].clone();
    assert_eq!(look(&pair)["method"], "none");
    // A look that a node began by coming late may find a change before its event: then it is no proof.
    let mut proven = 0;
    for round in 0..50 {
        all_report(&pair);
        let before = look(&pair);
        let path = format!("acct1/inbound/of{round}");
        fs::write(nodes[round % 3].tree.join(&path), b"x").unwrap();
        is_there(&pair, &path, true);
        fs::remove_file(nodes[(round + 1) % 3].tree.join(&path)).unwrap();
        is_there(&pair, &path, false);
        let after = look(&pair);
        let same = |key: &str| before[key] == after[key];
        proven += u32::from(same("last_look_unix_ms") && same("whole_look_percent"));
        if proven == 3 {
            break;
        }
    }
    assert_eq!(proven, 3, "events of nodes made changes arrive");
    // Nobody sees this one.
    daemons.into_iter().for_each(Daemon::kill);
    pair.write("acct2/unseen", b"x");
    let _again = nodes[1].capture();
    is_there(&pair, "acct2/unseen", true);
}

#[test]
fn the_point_stands_while_a_node_is_away_and_moves_when_it_is_back() {
    if !is_root() {
        return;
    }
    let (pair, nodes) = pair();
    pair.write("acct1/one", b"1");
    let (_there, _here) = (pair.recovery.start(), pair.production.start());
    let mut daemons: Vec<Daemon> = nodes.iter().map(Site::capture).collect();
    all_report(&pair);
    let (_, time) = pair.point();
    let moves = |time: i64| {
        pair.wait(&pair.production, "a later point", |share| {
            share["recovery_point"]["time_unix_ms"].as_i64() > Some(time + 1_500)
        });
    };
    moves(time);
    daemons.remove(1).kill();
    pair.wait(&pair.production, "n3 away", |share| {
        let states = states(share);
        states[1] != "ok" && states[0] == "ok" && states[2] == "ok"
    });
    let (_, stands) = pair.point();
    for round in 0..5 {
        pair.write(&format!("acct1/while{round}"), b"x");
        assert_eq!(pair.point().1, stands, "nobody knows what n3 saw");
        is_there(&pair, &format!("acct1/while{round}"), true);
    }
    daemons.push(nodes[1].capture());
    all_report(&pair);
    moves(stands);
    pair.point();
    pair.equal("after all are back");
    assert!(daemons.remove(0).stop().success());
}

#[test]
fn a_node_is_neither_the_other_site_nor_another_node() {
    if !is_root() {
        return;
    }
    let (pair, nodes) = pair();
    let here = pair.production.start();
    // The second node says that it is the recovery site, then that it is the third node.
    for (name, word) in [("recovery", "not that of the other site"), ("n3", "no node 'n3'")] {
        let former = fs::read_to_string(&nodes[0].config).unwrap();
        let text_of = former.replace("name = \"n2\"", &format!("name = \"{name}\""));
        let (text_of, started) = match name {
            "n3" => (text_of, "capture"),
            _ => (text_of.replace("role = \"active\"", "role = \"standby\""), "serve"),
        };
        let tree = nodes[0].state.parent().unwrap().join(format!("as-{name}"));
        fs::create_dir_all(&tree).unwrap();
        let text_of = text_of.replace(text(&nodes[0].tree), text(&tree));
        let config = nodes[0].state.parent().unwrap().join(format!("{name}.toml"));
        fs::write(&config, text_of).unwrap();
        let child = crate::common::command(&[started, "--config", text(&config)]).spawn();
        let impostor = Daemon::of(child.expect("it starts"));
        here.wait_for(word);
        impostor.kill();
    }
    let status = pair.status(&pair.production)["shares"][0].clone();
    assert!(states(&status).iter().all(|state| state != "ok"), "{status:#}");
}
