//! What a pair meets that is not as it should be: states brought back from a backup, a network that is away,
//! a peer that restarts in a loop; and what the status says of it, and when nothing is wrong.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::text;
use crate::kills::{NO_BRAKE, copy};
use crate::pair::{Dials, Pair, Site, there};

/// What a site knows is as it was when `before` was copied.
fn bring_back(site: &Site, before: &std::path::Path) {
    for entry in fs::read_dir(&site.state).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => fs::remove_dir_all(entry.path()).unwrap(),
            false => fs::remove_file(entry.path()).unwrap(),
        }
    }
    copy(before, &site.state);
}

/// Many cuts of all kinds.
fn work(pair: &Pair, round: usize) {
    for n in 0..10 {
        pair.write(&format!("acct{n}/in/round{round}"), format!("{round} {n}").as_bytes());
        pair.write(&format!("acct{n}/in/same"), format!("changed {round} {n}").as_bytes());
        let at = |name: &str| pair.production.tree.join(format!("acct{n}/in/{name}"));
        match round {
            0 => {}
            _ if n % 3 == 0 => fs::remove_file(at(&format!("round{}", round - 1))).unwrap(),
            _ if n % 3 == 1 => {
                let from = at(&format!("round{}", round - 1));
                fs::rename(&from, from.with_extension("moved")).unwrap();
            }
            _ => {}
        }
        if n % 5 == 4 {
            pair.point();
        }
    }
}

#[test]
fn a_source_whose_state_comes_from_a_backup_loses_nothing() {
    let pair = Pair::with(Dials::Production, NO_BRAKE);
    let (_there, here) = (pair.recovery.start(), pair.production.start());
    (0..3).for_each(|round| work(&pair, round));
    pair.point();
    assert!(here.stop().success());
    let before = pair.production.state.with_extension("before");
    copy(&pair.production.state, &before);
    let here = pair.production.start();
    (3..12).for_each(|round| work(&pair, round));
    let (sequence, time) = pair.point();
    assert!(here.stop().success());
    bring_back(&pair.production, &before);
    // And what nobody saw.
    work_alone(&pair);
    let _here = pair.production.start();
    let (next, later) = pair.point();
    assert!(next > sequence && later >= time, "{next} at {later} after {sequence} at {time}");
    pair.wait(&pair.production, "looked at", |share| {
        share["capture"]["last_look_unix_ms"].is_i64()
    });
    pair.point();
    pair.equal("after the backup");
    let share = pair.wait(&pair.production, "idle", |share| share["ready"] == true);
    assert_eq!(share["recovery_point"]["exceptions"].as_u64(), Some(0), "{share:#}");
}

fn work_alone(pair: &Pair) {
    pair.write("acct3/in/while-away", b"away");
    fs::remove_file(pair.production.tree.join("acct2/in/round11")).unwrap();
}

#[test]
fn a_standby_whose_state_comes_from_a_backup_is_looked_at_and_made_the_source_again() {
    let pair = Pair::with(Dials::Production, NO_BRAKE);
    let (there_, here) = (pair.recovery.start(), pair.production.start());
    (0..3).for_each(|round| work(&pair, round));
    pair.point();
    assert!(there_.stop().success());
    let before = pair.recovery.state.with_extension("before");
    copy(&pair.recovery.state, &before);
    let there_ = pair.recovery.start();
    (3..12).for_each(|round| work(&pair, round));
    let (sequence, _) = pair.point();
    assert!(there_.stop().success());
    bring_back(&pair.recovery, &before);
    // Both know nothing of it any more, and yet it stands there.
    work_alone(&pair);
    pair.write("acct5/in/same", b"another one");
    let _there = pair.recovery.start();
    here.wait_for("the standby's catalog is older than its last point");
    let (next, _) = pair.point();
    assert!(next > sequence, "{next} after {sequence}");
    pair.equal("after the backup");
    for site in [&pair.production, &pair.recovery] {
        pair.wait(site, "well", |share| share["ready"] == true);
    }
    pair.point();
    pair.equal("later");
}

/// What lies between two sites, and may be cut.
struct Relay {
    address: SocketAddr,
    is_cut: Arc<AtomicBool>,
    is_over: Arc<AtomicBool>,
}

impl Relay {
    fn to(there: &str) -> Self {
        let near = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = near.local_addr().unwrap();
        let there: SocketAddr = there.parse().unwrap();
        let (is_cut, is_over) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (cut, over) = (Arc::clone(&is_cut), Arc::clone(&is_over));
        std::thread::spawn(move || {
            near.set_nonblocking(true).unwrap();
            // One way out for each who comes: connections are told apart by it.
            let mut ways: Vec<(SocketAddr, UdpSocket)> = Vec::new();
            let mut bytes = vec![0; 65_536];
            while !over.load(SeqCst) {
                let mut idle = true;
                while let Ok((len, from)) = near.recv_from(&mut bytes) {
                    idle = false;
                    if !ways.iter().any(|(known, _)| *known == from) {
                        let way = UdpSocket::bind("127.0.0.1:0").unwrap();
                        way.connect(there).unwrap();
                        way.set_nonblocking(true).unwrap();
                        ways.push((from, way));
                    }
                    let way = ways.iter().find(|(known, _)| *known == from);
                    if let Some((_, way)) = way.filter(|_| !cut.load(SeqCst)) {
                        way.send(&bytes[..len]).unwrap_or(0);
                    }
                }
                for (from, way) in &ways {
                    while let Ok(len) = way.recv(&mut bytes) {
                        idle = false;
                        if !cut.load(SeqCst) {
                            near.send_to(&bytes[..len], from).unwrap_or(0);
                        }
                    }
                }
                if idle {
                    std::thread::sleep(Duration::from_micros(200));
                }
            }
        });
        Self { address, is_cut, is_over }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.is_over.store(true, SeqCst);
    }
}

#[test]
fn what_is_changed_while_the_network_is_away_arrives_after_it_and_nothing_else_is_looked_at() {
    let pair = Pair::with(Dials::Production, NO_BRAKE);
    let relay = Relay::to(&pair.address);
    let config = fs::read_to_string(&pair.production.config).unwrap();
    let through = config.replace(&pair.address, &relay.address.to_string());
    fs::write(&pair.production.config, through).unwrap();
    (0..2).for_each(|round| {
        for n in 0..300 {
            pair.write(&format!("acct{}/in/{round}-{n}", n % 10), b"x");
        }
    });
    let (_there, _here) = (pair.recovery.start(), pair.production.start());
    pair.point();
    let looked = |share: &Value| share["capture"]["last_look_unix_ms"].as_i64();
    let first =
        looked(&pair.wait(&pair.production, "looked at all", |share| looked(share).is_some()));
    relay.is_cut.store(true, SeqCst);
    let until = Instant::now() + Duration::from_secs(15);
    let mut n = 0;
    while Instant::now() < until {
        pair.write(&format!("acct{}/in/away{n}", n % 10), b"away");
        n += 1;
        std::thread::sleep(Duration::from_millis(50));
    }
    let share = pair.wait(&pair.production, "known to wait", |share| {
        // How much it is was not looked at: that is no 0.
        share["at_risk"]["files"].as_u64() > Some(0)
            && share["at_risk"]["bytes"].is_null()
            && share["state"] == "waiting-for-peer"
    });
    assert_eq!(share["at_risk"]["bound"], "at-least");
    assert!(!there(&pair, "acct1/in/away1").exists());
    pair.wait(&pair.recovery, "not heard", |share| share["at_risk"]["bound"] == "unknown");
    relay.is_cut.store(false, SeqCst);
    let began = Instant::now();
    pair.point();
    assert!(began.elapsed() < Duration::from_secs(20), "the redial waited {:?}", began.elapsed());
    pair.equal("after the cut");
    let share = pair.status(&pair.production)["shares"][0].clone();
    assert_eq!(looked(&share), first, "everything was looked at: {share:#}");
    assert!(share["capture"]["whole_look_percent"].is_null(), "{share:#}");
}

#[test]
fn a_peer_that_restarts_in_a_loop_is_met_again() {
    for turn in [true, false] {
        let pair = Pair::with(Dials::Production, NO_BRAKE);
        pair.write("acct1/one", b"1");
        let (other, turning) = match turn {
            true => (&pair.production, &pair.recovery),
            false => (&pair.recovery, &pair.production),
        };
        let _stays = other.start();
        for n in 0..12 {
            let daemon = turning.start();
            pair.write(&format!("acct{}/{n}", n % 3), b"x");
            std::thread::sleep(Duration::from_millis(60 * (n % 7)));
            match n % 3 {
                0 => assert!(daemon.stop().success()),
                _ => daemon.kill(),
            }
        }
        let _stays_too = turning.start();
        pair.point();
        pair.equal("after all of it");
        for site in [&pair.production, &pair.recovery] {
            pair.wait(site, "well", |share| share["ready"] == true);
        }
    }
}

/// Nothing is wrong: then the status says so at both sites, of each thing it says.
#[test]
fn a_status_says_what_is_so() {
    let pair = Pair::new();
    pair.write("acct1/one", b"1");
    let (there_, here) = (pair.recovery.start(), pair.production.start());
    pair.point();
    for (site, other) in [(&pair.production, &pair.recovery), (&pair.recovery, &pair.production)] {
        let share = pair.wait(site, "idle, with nothing at risk", |share| {
            share["state"] == "idle"
                && share["at_risk"]["bound"] == "at-most"
                && share["at_risk"]["bytes"].as_u64() == Some(0)
        });
        assert_ne!(
            share["standby"]["foreign_found"].as_u64(),
            Some(1),
            "a first copy is no change by others"
        );
        // The two are below folders of their own here, which no two sites should be.
        let other = text(&other.tree);
        let share = pair.wait(site, "another path", |share| share["peer_path"] == other);
        assert!(share["warnings"][0].as_str().unwrap().contains(other), "{share:#}");
        assert_eq!(share["ready"], true, "that is no reason against it");
        let clock = pair.status(site)["peer"]["clock"].clone();
        assert_eq!(clock["warning"], false, "{clock:#}");
        assert!(clock["offset_ms"].as_i64().unwrap().abs() < 1_000, "{clock:#}");
    }
    let log = here.log();
    assert!(here.stop().success(), "{log}");
    pair.wait(&pair.recovery, "left", |share| share["state"] == "waiting-for-peer");
    let here = pair.production.start();
    pair.point();
    let said = there_.log();
    assert!(!said.contains(" warn "), "an orderly stop of the other: {said}");
    assert!(there_.stop().success());
    here.wait_for("the operator stopped");
    let said: Vec<String> =
        here.log().lines().filter(|l| l.contains("session")).map(Into::into).collect();
    assert!(
        !said.iter().any(|line| line.contains(" warn ")),
        "an orderly stop of the other: {said:#?}"
    );
}
