//! A site changes its key while both daemons run.

use std::fs;
use std::time::{Duration, Instant};

use crate::common::{PATIENCE, farshore, shown, text};
use crate::pair::{Dials, Pair, Site};

fn key(site: &Site, verb: &str) -> std::process::Output {
    farshore(&["key", verb, "--config", text(&site.config)])
}

fn trusted(site: &Site) -> String {
    let out = farshore(&["pair", "--config", text(&site.config), "--list"]);
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Waits until `site` has revoked `id`, or says what it has.
fn revokes(site: &Site, id: &str) {
    let until = Instant::now() + PATIENCE;
    let line = |list: &str| list.lines().find(|line| line.contains(id)).unwrap_or("").to_owned();
    while !line(&trusted(site)).contains("revoked") {
        assert!(Instant::now() < until, "never revoked: {}", trusted(site));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn either_site_changes_its_key_and_sessions_go_on() {
    let pair = Pair::with(Dials::Production, "");
    pair.write("acct1/one", b"1");
    let (there, mut here) = (pair.recovery.start(), pair.production.start());
    pair.point();
    for (site, other) in [(&pair.production, &pair.recovery), (&pair.recovery, &pair.production)] {
        let rotated = key(site, "rotate");
        assert!(rotated.status.success(), "{}", shown(&rotated));
        // Refused until the other site has said that it trusts the next one.
        let until = Instant::now() + PATIENCE;
        loop {
            let retired = key(site, "retire");
            if retired.status.success() {
                break;
            }
            assert!(Instant::now() < until, "never acknowledged: {}", shown(&retired));
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(!site.state.join("site.key.next").exists());
        pair.write(&format!("acct1/of-{}", site.name), b"x");
        pair.point();
        pair.equal("in the session that stood");
        if site.name == "recovery" {
            there.wait_for("is shown to new links");
        }
        // A new link is proven by the new key, and the former one is given up over it.
        here.kill();
        here = pair.production.start();
        pair.write(&format!("acct1/again-{}", site.name), b"x");
        pair.point();
        pair.equal("in the next session");
        revokes(other, &site.key);
    }
    assert!(here.stop().success() && there.stop().success());
    assert!(fs::metadata(pair.recovery.state.join("site.key")).is_ok());
}
