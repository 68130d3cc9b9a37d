//! What policies leave out stays at the target and is told; what they cannot answer travels.

use std::fs;
use std::sync::Mutex;

use farshore::replicate::{RunOptions, TargetOptions};
use farshore_core::entry::Timestamp;
use farshore_core::guard::Hold;
use farshore_core::path::RelPath;
use farshore_core::policy::{
    Action, Candidate, Fault, Faults, HeldFaults, Policy, PolicySet, Verdict,
};
use farshore_engine::catalog::{Catalog, CatalogConfig, CatalogRole, Detached};
use farshore_policies::RuleSet;
use farshore_proto::message::StoreId;

use rustix::mount::{UnmountFlags, unmount};

use crate::sites::{Counts, Run, Sites, is_root, mount_tmpfs, put, snapshot, touched};

fn rules(exclude: &[&str]) -> RuleSet {
    let mut builder = RuleSet::builder(Timestamp { seconds: 0, nanos: 0 });
    for rule in exclude {
        builder.push(Action::Exclude, rule.as_bytes()).expect("a rule");
    }
    builder.build()
}

fn catalog(sites: &Sites, role: CatalogRole) -> Catalog {
    let prefix = if role == CatalogRole::Source { "source-" } else { "target-" };
    let folders = fs::read_dir(&sites.state).expect("the state folder");
    let folder = folders
        .map(|entry| entry.expect("an entry").path())
        .find(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(prefix)))
        .expect("a catalog's folder");
    let config = CatalogConfig { role, cache_bytes: 1 << 20, fresh_id: StoreId([0; 16]) };
    Catalog::open(&folder.join("catalog.redb"), &config).expect("the catalog")
}

fn detached(sites: &Sites) -> Vec<(String, Detached)> {
    let catalog = catalog(sites, CatalogRole::Source);
    let rows = catalog.reader().expect("a reader").detached().expect("rows");
    rows.map(|row| row.map(|(path, d)| (path.to_string(), d)).expect("a row")).collect()
}

fn names(run: &Run) -> Vec<String> {
    run.result.source.by_policy.first.iter().map(|(path, _)| path.to_string()).collect()
}

/// Half of the share turns excluded: files, and a folder that files change in meanwhile.
#[test]
fn what_turns_excluded_is_kept_and_listed_once_and_comes_back() {
    let sites = Sites::new();
    for i in 0..10 {
        put(&sites.a.join(format!("home/f{i}.dat")), [i; 100]);
        put(&sites.a.join(format!("home/f{i}.tmp")), [i; 100]);
        put(&sites.a.join(format!("home/scratch/deep/f{i}")), [i; 100]);
    }
    sites.run();
    put(&sites.a.join("home/f0.tmp"), b"changed, and not to travel");
    fs::remove_file(sites.a.join("home/f1.tmp")).expect("removed");
    fs::remove_file(sites.a.join("home/scratch/deep/f1")).expect("removed");
    put(&sites.a.join("home/f0.dat"), b"changed");
    let before = snapshot(&sites.b, &[]);
    let policy = rules(&["*.tmp", "scratch/"]);
    let options = RunOptions { policy: &policy, ..sites.options() };
    let dry = sites.run_with(&RunOptions { dry_run: true, ..sites.options() });
    assert_eq!(dry.result.source.by_policy.began, 0, "without the policy");
    let dry = sites.run_with(&RunOptions { policy: &policy, dry_run: true, ..sites.options() });
    assert_eq!(dry.result.source.by_policy.began, 11, "a dry run says it and keeps nothing of it");
    let run = sites.run_with(&options);
    run.clean();
    let mut after = touched(&before, &snapshot(&sites.b, &[]));
    after.retain(|path| !path.starts_with(".farshore") && !path.is_empty());
    assert_eq!(after, ["home", "home/f0.dat"], "what changed, and its folder");
    assert_eq!(run.counts().removed, 0);
    let by_policy = &run.result.source.by_policy;
    assert_eq!((by_policy.began, by_policy.ended), (11, 0));
    let mut expected: Vec<_> = (0..10).map(|i| format!("home/f{i}.tmp")).collect();
    expected.push("home/scratch".into());
    assert_eq!(names(&run), expected);
    let counts: Vec<_> = by_policy.by_rule.iter().map(|(r, n)| (r.as_str(), n.entries)).collect();
    assert_eq!(counts, [("- *.tmp", 10), ("- scratch/", 12)], "with the twelve in and below it");
    assert_eq!(run.result.source.detached, 22);
    assert!(run.result.source.policies_changed.is_some());
    let listed = detached(&sites);
    assert_eq!(listed.iter().map(|(path, _)| path.clone()).collect::<Vec<_>>(), expected);
    assert_eq!(listed[0].1, Detached { since: 2, rule: "- *.tmp".into() });

    let run = sites.run_with(&options);
    assert_eq!((run.counts(), run.result.source.by_policy.began), (Counts::default(), 0));
    assert_eq!(run.result.source.policies_changed, None);
    assert_eq!(detached(&sites), listed, "since the recovery point they were detached at");
    for role in [CatalogRole::Source, CatalogRole::Target] {
        let catalog = catalog(&sites, role);
        let policies = catalog.reader().expect("a reader").policies().expect("policies");
        assert_eq!(policies, Some(policy.identity()), "{role:?}");
    }

    let run = sites.run();
    assert_eq!(run.result.source.by_policy.ended, 11);
    assert_eq!(run.counts().removed, 2, "what was removed meanwhile");
    assert_eq!(detached(&sites), []);
    sites.converged("without the policy");
}

/// A directory at the target, a file here that does not travel: what is in the directory stays too.
#[test]
fn an_excluded_file_in_the_place_of_a_directory_removes_nothing_of_it() {
    let sites = Sites::new();
    put(&sites.a.join("x/deep/f"), b"content");
    put(&sites.a.join("y"), b"content");
    sites.run();
    fs::remove_dir_all(sites.a.join("x")).expect("removed");
    put(&sites.a.join("x"), b"a file now");
    let policy = rules(&["/x"]);
    let run = sites.run_with(&RunOptions { policy: &policy, ..sites.options() });
    run.clean();
    assert_eq!(run.counts().removed, 0);
    assert_eq!(fs::read(sites.b.join("x/deep/f")).expect("still there"), b"content");
    assert_eq!(names(&run), ["x"]);
}

/// Has no answer about names that end in `.odd`, and leaves out those that end in `.tmp`.
#[derive(Default)]
struct Odd {
    faults: Mutex<Faults>,
    hold: bool,
}

impl Policy for Odd {
    fn exclude(&self, candidates: &[Candidate<'_>]) -> Vec<Verdict> {
        let verdict = |candidate: &Candidate<'_>| match candidate.path.as_bytes() {
            path if path.ends_with(b".odd") => {
                let mut faults = self.faults.lock().expect("whole");
                faults.count += 1;
                let path = RelPath::clone(candidate.path);
                let fault = Fault { path, text: "policy odd: it trapped".into() };
                faults.first.push(fault.clone());
                let count = faults.count;
                faults.hold = self.hold.then_some(HeldFaults { count, first: fault });
                Verdict::FAULT
            }
            path if path.ends_with(b".tmp") => Verdict::by_rule(Action::Exclude, 0),
            _ => Verdict::REPLICATE,
        };
        candidates.iter().map(verdict).collect()
    }

    fn rules(&self) -> Vec<String> {
        vec!["odd".into()]
    }

    fn take_faults(&self) -> Faults {
        std::mem::take(&mut self.faults.lock().expect("whole"))
    }
}

#[test]
fn an_entry_without_an_answer_travels_and_is_a_problem_and_its_removal_waits() {
    let sites = Sites::new();
    put(&sites.a.join("home/a.odd"), b"odd");
    put(&sites.a.join("home/b.dat"), b"even");
    let policy = Odd::default();
    let options = || RunOptions { policy: &policy, ..sites.options() };
    let run = sites.run_with(&options());
    assert_eq!(run.problems(), ["home/a.odd: policy odd: it trapped"]);
    assert_eq!((run.sealed().exceptions, run.result.source.faults), (1, 1));
    sites.equal("both travelled");
    fs::remove_file(sites.a.join("home/a.odd")).expect("removed");
    fs::remove_file(sites.a.join("home/b.dat")).expect("removed");
    let run = sites.run_with(&options());
    assert_eq!(run.counts().removed, 1, "nothing is concluded gone without an answer");
    assert!(sites.b.join("home/a.odd").exists());
    assert_eq!(run.problems(), ["home/a.odd: policy odd: it trapped"]);
    assert_eq!(names(&run), Vec::<String>::new(), "nobody excluded it");
}

/// A folder without an answer is asked about once, whatever goes below it.
#[test]
fn what_is_in_a_folder_without_an_answer_costs_no_further_faults() {
    let sites = Sites::new();
    for i in 0..30 {
        put(&sites.a.join(format!("live.odd/f{i}")), [i; 50]);
        put(&sites.a.join(format!("gone.odd/f{i}")), [i; 50]);
    }
    sites.run();
    fs::remove_dir_all(sites.a.join("gone.odd")).expect("removed");
    for i in 1..30 {
        fs::remove_file(sites.a.join(format!("live.odd/f{i}"))).expect("removed");
    }
    let policy = Odd::default();
    let run = sites.run_with(&RunOptions { policy: &policy, ..sites.options() });
    assert_eq!(run.result.source.faults, 2, "{:?}", run.problems());
    assert_eq!(run.counts().removed, 29, "the folder is there, and what was in it is gone");
    assert!(sites.b.join("gone.odd/f29").exists(), "of the folder itself nothing can be said");
    assert!(sites.b.join("live.odd/f0").exists());
}

/// What is gone is judged by what was last known of it, and of the folders above it.
#[test]
fn what_is_gone_is_judged_by_the_facts_it_had() {
    let sites = Sites::new();
    if !is_root() {
        return;
    }
    for folder in ["theirs", "ours", "moving"] {
        put(&sites.a.join(folder).join("f"), folder);
        put(&sites.a.join(folder).join("g"), [7; 100]);
        let owner = if folder == "ours" { 1002 } else { 1001 };
        std::os::unix::fs::chown(sites.a.join(folder), Some(owner), None).expect("an owner");
    }
    put(&sites.a.join("home/large.dat"), [1; 100]);
    fs::hard_link(sites.a.join("home/large.dat"), sites.a.join("home/name.dat")).expect("a name");
    sites.run();
    fs::remove_dir_all(sites.a.join("theirs")).expect("removed");
    fs::remove_file(sites.a.join("ours/f")).expect("removed");
    fs::remove_file(sites.a.join("home/name.dat")).expect("removed");
    fs::rename(sites.a.join("moving/g"), sites.a.join("home/g")).expect("renamed");
    let policy = rules(&["/*/ owner=1001", "*.dat size<10"]);
    let run = sites.run_with(&RunOptions { policy: &policy, ..sites.options() });
    run.clean();
    assert!(sites.b.join("theirs/f").exists() && sites.b.join("theirs/g").exists(), "excluded");
    assert!(!sites.b.join("ours/f").exists(), "its folder travels");
    assert!(!sites.b.join("home/name.dat").exists(), "a further name is as large as the first");
    assert!(sites.b.join("moving/g").exists(), "nothing moves away from what is excluded");
    assert_eq!(fs::read(sites.b.join("home/g")).expect("there"), [7; 100]);
    assert_eq!(names(&run), ["moving", "theirs"]);
}

/// What was detached when it had grown, or changed hands, is not followed to its end.
#[test]
fn what_was_detached_stays_when_it_goes_at_the_source_while_its_rule_is_in_force() {
    let sites = Sites::new();
    put(&sites.a.join("home/mail.mbox"), b"small");
    put(&sites.a.join("home/other"), b"small");
    let policy = rules(&["* size>100"]);
    let options = RunOptions { policy: &policy, ..sites.options() };
    sites.run_with(&options).clean();
    put(&sites.a.join("home/mail.mbox"), [7; 500]);
    assert_eq!(names(&sites.run_with(&options)), ["home/mail.mbox"]);
    fs::remove_file(sites.a.join("home/mail.mbox")).expect("removed");
    for _ in 0..2 {
        let run = sites.run_with(&options);
        run.clean();
        assert_eq!((run.counts().removed, run.result.source.by_policy.ended), (0, 0));
        assert_eq!(fs::read(sites.b.join("home/mail.mbox")).expect("kept"), b"small");
        assert_eq!(detached(&sites).len(), 1);
    }
    // With the rule, what held it back is gone.
    let run = sites.run();
    assert_eq!((run.counts().removed, run.result.source.by_policy.ended), (1, 1));
    sites.converged("without the rule");
}

#[test]
fn what_cannot_be_seen_stays_detached_and_a_new_rule_is_told_with_the_old_point() {
    let sites = Sites::new();
    put(&sites.a.join("home/p/a.tmp"), b"content");
    put(&sites.a.join("home/b.tmp"), b"content");
    sites.run();
    let policy = rules(&["*.tmp"]);
    let options = RunOptions { policy: &policy, ..sites.options() };
    assert_eq!(sites.run_with(&options).result.source.by_policy.began, 2);
    let listed = detached(&sites);
    if mount_tmpfs(&sites.a.join("home/p")) {
        let run = sites.run_with(&options);
        assert_eq!(run.problems().len(), 1, "{:?}", run.problems());
        let by_policy = &run.result.source.by_policy;
        assert_eq!((by_policy.began, by_policy.ended), (0, 0));
        assert_eq!(detached(&sites), listed);
        unmount(&sites.a.join("home/p"), UnmountFlags::empty()).expect("unmounted");
    }
    let policy = rules(&["*.tmp kind=file"]);
    let run = sites.run_with(&RunOptions { policy: &policy, ..sites.options() });
    assert_eq!(run.result.source.by_policy.began, 0);
    let rule = "- *.tmp kind=file".to_owned();
    let now: Vec<_> = detached(&sites).into_iter().map(|(_, detached)| detached).collect();
    assert_eq!(now, vec![Detached { since: 2, rule }; 2]);
}

#[test]
fn a_site_may_want_a_cut_with_faults_held() {
    let sites = Sites::new();
    put(&sites.a.join("home/a.odd"), b"odd");
    put(&sites.a.join("home/b.dat"), b"even");
    let policy = Odd { hold: true, ..Odd::default() };
    let options = || RunOptions { policy: &policy, ..sites.options() };
    let run = sites.run_with(&options());
    assert!(matches!(run.held(), Hold::PolicyFaults { count: 1, .. }), "{:?}", run.held());
    assert!(!sites.b.join("home").exists());
    sites.run_with(&RunOptions { approved: true, ..options() }).sealed();
    sites.equal("approved");
}

#[test]
fn a_target_that_was_told_which_policies_refuses_others() {
    let sites = Sites::new();
    put(&sites.a.join("home/a.tmp"), b"content");
    let policy = rules(&["*.tmp"]);
    let wanting = |policies: PolicySet| RunOptions {
        policy: &policy,
        target: TargetOptions { policies: Some(policies), ..TargetOptions::default() },
        ..sites.options()
    };
    let failed = sites.try_run(&wanting(rules(&["*.bak"]).identity())).expect_err("others");
    assert!(failed.message.contains("other rules"), "{}", failed.message);
    assert!(!sites.b.join("home").exists(), "refused before anything was done");
    sites.run_with(&wanting(policy.identity())).clean();
    assert!(sites.b.join("home").exists());
}
