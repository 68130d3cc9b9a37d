//! A machine that was put back whole, its tree with it.

use super::*;

#[test]
fn a_site_that_was_put_back_with_its_tree_says_so_until_a_point_is_sealed_anew() {
    let (plan, next) = (PlanId([5; 32]), PlanId([7; 32]));
    let mut pair = Pair::new(None);
    let old = (pair.sites[A].record.clone(), pair.sites[A].marker.clone());
    go_there_and_back(&mut pair);
    pair.crash(A);
    pair.input(B, Input::LinkDown);
    pair.command(B, Command::Failover { peer_is_off: true }).expect("the operator's word");
    assert!(pair.role(B).record().base.is_some(), "it was its standby");
    (pair.sites[A].record, pair.sites[A].marker) = old;
    pair.start(A);
    pair.input(A, Input::LinkUp);
    pair.input(B, Input::LinkUp);
    pair.wait(500);
    let says_so = |pair: &Pair, what: &str| {
        let phase = pair.role(A).record().phase;
        assert!(
            matches!(phase, Phase::Stranded { why: Strand::PeerAhead, .. }),
            "{what}: {phase:?}"
        );
    };
    says_so(&pair, "found out");
    // Its tree is as old when a plan was given up.
    pair.command(B, Command::BeginReconcile { plan }).expect("legal");
    pair.wait(200);
    pair.restart(A);
    pair.wait(200);
    assert_eq!(pair.phases(), ["reconciling", "reconciling"]);
    pair.command(B, Command::AbandonReconcile { plan }).expect("legal");
    pair.wait(200);
    says_so(&pair, "a plan was given up");
    // And when it was opened, and the other one again.
    pair.crash(B);
    pair.input(A, Input::LinkDown);
    pair.command(A, Command::Failover { peer_is_off: true }).expect("the operator's word");
    pair.crash(A);
    pair.start(B);
    pair.command(B, Command::OpenAlone).expect("the operator's word");
    pair.command(B, Command::OpenAlone).expect("the operator's word");
    pair.start(A);
    pair.input(A, Input::LinkUp);
    pair.input(B, Input::LinkUp);
    pair.wait(500);
    if pair.phases() == ["split", "split"] {
        pair.command(B, Command::ResolveSplit).expect("the operator's word");
        pair.wait(500);
    }
    assert_eq!(pair.phases(), ["stranded", "alone"]);
    says_so(&pair, "both were opened");
    pair.command(B, Command::BeginReconcile { plan: next }).expect("legal");
    pair.wait(200);
    for site in [B, A] {
        pair.command(site, Command::FinishReconcile { plan: next }).expect("legal");
        pair.wait(200);
    }
    assert_eq!(pair.phases(), ["standby", "active"]);
    pair.input(A, Input::Sealed);
    let record = pair.role(A).record();
    assert!(!record.forgot && !record.put_back, "a point was sealed");
}
