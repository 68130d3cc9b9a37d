//! The place where the command runs: what it sees, and what it does not reach.

use std::fs;

use crate::bed::{Bed, Disk};
use crate::common::text;

#[test]
fn the_command_has_its_own_path_network_and_processes() {
    let Some(bed) = Bed::new(Disk::Tmpfs, "") else { return };
    let pair = &bed.pair;
    pair.write("acct/a.txt", b"a");
    let _daemons = bed.start();
    let (sequence, _) = pair.point();
    let tree = text(&pair.recovery.tree).to_owned();
    let state = text(&pair.recovery.state).to_owned();
    let network = fs::read_link("/proc/self/ns/net").unwrap();
    let report = bed.goes_well(
        sequence,
        &format!(
            "test \"$FARSHORE_ROOT\" = '{tree}'; test \"$PWD\" = '{tree}'
             test \"$FARSHORE_SHARE $FARSHORE_POINT $FARSHORE_REHEARSAL\" = 'homes {sequence} 1'
             test \"$(cat '{tree}/acct/a.txt')\" = a; test ! -e .farshore
             test \"$(readlink /proc/self/ns/net)\" != '{}'
             test \"$(grep -c : /proc/net/dev)\" = 1
             grep -q 7F000001 /proc/net/fib_trie || grep -q 127.0.0.1 /proc/net/fib_trie
             test \"$(ls /proc | grep -c '^[0-9]')\" -lt 10
             ! touch '{state}/x' 2>/dev/null
             touch '{tree}/acct/new'",
            text(&network)
        ),
    );
    assert_eq!(report["wrote"][0]["path"], "acct/new");
    assert!(!pair.recovery.state.join("x").exists());
    let script = format!("test \"$(readlink /proc/self/ns/net)\" = '{}'", text(&network));
    let out = bed.rehearse(sequence, &["--network", "--probe", "sh", "-c", &script]);
    crate::common::expect(&out, 0, &[]);
}
