//! Guests written by hand: core modules as text, in the canonical ABI, wrapped against our interface.
//!
//! The usual guest answers by a path's last byte ("x" excluded by rule 0, "d" deferred by rule 1) and
//! goes wrong by its first: "!" traps, "@" never ends, "#" takes all memory, "^" recurses, "$" names
//! a rule that is not there, "%" answers one verdict too few, "~" floods the log, "&" says why and
//! gives up.

#![allow(dead_code, unreachable_pub)]

use farshore_core::entry::{EntryKind, Timestamp};
use farshore_core::path::RelPath;
use farshore_core::policy::Candidate;
use farshore_policies::wrap::wrap;
use farshore_policies::{Configured, Host, Limits, OnFault};
use wit_component::StringEncoding;
use wit_parser::Resolve;

/// The time of every cut here.
pub const AT: Timestamp = Timestamp { seconds: 1_800_000_000, nanos: 5 };

/// The interface as it is.
pub const WIT: &str = include_str!("../../wit/policy.wit");

/// A guest to be built.
#[derive(Clone)]
pub struct Guest {
    /// Interface and world it is built against.
    pub wit: String,
    /// Its world.
    pub world: &'static str,
    /// The version in its names.
    pub version: &'static str,
    /// Further imports, functions, data.
    pub extra: String,
    /// Before the manifest is answered; `$settings $count $seconds $nanos`.
    pub configure: String,
    /// The verdict on `$entry`, to `$out`; first byte `$first`, last `$last` of its path.
    pub verdict: String,
    /// What happens before `exclude` answers; `$entries $count $out`.
    pub exclude: String,
    /// The decision, at 1200; `$args`.
    pub resolve: Option<String>,
    /// What happens when an answer was taken.
    pub after: String,
    /// What `cabi_realloc` answers; `$size`.
    pub realloc: String,
    /// Pages of memory at the start.
    pub pages: u32,
}

/// What goes wrong by the first byte.
const MOODS: &str = r#"
  (if (i32.eq (local.get $first) (i32.const 33)) (then unreachable))
  (if (i32.eq (local.get $first) (i32.const 64)) (then (loop $l (br $l))))
  (if (i32.eq (local.get $first) (i32.const 35)) (then (drop (memory.grow (i32.const 65534)))))
  (if (i32.eq (local.get $first) (i32.const 94)) (then (call $deep (i32.const 0))))
  (if (i32.eq (local.get $first) (i32.const 36)) (then
    (i32.store8 offset=4 (local.get $out) (i32.const 1))
    (i32.store offset=8 (local.get $out) (i32.const 2)) (return)))
  (if (i32.eq (local.get $first) (i32.const 37)) (then (global.set $short (i32.const 1))))
  (if (i32.eq (local.get $first) (i32.const 126)) (then
    (local.set $i (i32.const 1000))
    (loop $l
      (call $log (i32.const 1) (i32.const 64) (i32.const 2000))
      (br_if $l (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))))
  (if (i32.eq (local.get $first) (i32.const 38)) (then
    (call $log (i32.const 3) (i32.const 32) (i32.const 17)) unreachable))
  (if (i32.eq (local.get $last) (i32.const 120)) (then
    (i32.store8 (local.get $out) (i32.const 1))
    (i32.store8 offset=4 (local.get $out) (i32.const 1))))
  (if (i32.eq (local.get $last) (i32.const 100)) (then
    (i32.store8 (local.get $out) (i32.const 2))
    (i32.store8 offset=4 (local.get $out) (i32.const 1))
    (i32.store offset=8 (local.get $out) (i32.const 1))))
"#;

impl Default for Guest {
    fn default() -> Self {
        Self {
            wit: WIT.to_owned(),
            world: "exclude-policy",
            version: "1.0.0",
            extra: String::new(),
            configure: String::new(),
            verdict: MOODS.to_owned(),
            exclude: String::new(),
            resolve: None,
            after: "(global.set $top (i32.const 8192))".to_owned(),
            realloc: "(call $alloc (local.get $size))".to_owned(),
            pages: 2,
        }
    }
}

impl Guest {
    /// A guest that decides conflicts so, and excludes as the usual one.
    pub fn resolving(resolve: &str) -> Self {
        Self { world: "policy", resolve: Some(resolve.to_owned()), ..Self::default() }
    }

    /// The core module as text.
    pub fn text(&self) -> String {
        let Self { version, extra, configure, verdict, exclude, after, realloc, pages, .. } = self;
        let (imports, resolve) = match &self.resolve {
            None => (String::new(), String::new()),
            Some(resolve) => (
                format!(
                    r#"(import "farshore:policy/contents@{version}" "[method]versions.read"
                         (func $read (param i32 i32 i64 i32 i32)))
                       (import "farshore:policy/contents@{version}" "[resource-drop]versions"
                         (func $drop (param i32)))"#
                ),
                format!(
                    r#"(func (export "farshore:policy/resolution@{version}#resolve")
                         (param $args i32) (result i32) (local $i i32)
                         {resolve}
                         (call $drop (i32.load offset=328 (local.get $args)))
                         (i32.const 1200))
                       (func (export "cabi_post_farshore:policy/resolution@{version}#resolve")
                         (param i32) {after})"#
                ),
            ),
        };
        let exclusion = if self.world == "conflict-policy" {
            String::new()
        } else {
            format!(
                r#"(func (export "farshore:policy/exclusion@{version}#exclude")
                     (param $entries i32) (param $count i32) (result i32)
                     (local $out i32) (local $i i32)
                     (global.set $short (i32.const 0))
                     (local.set $out (call $alloc (i32.mul (local.get $count) (i32.const 12))))
                     {exclude}
                     (block $done (loop $next
                       (br_if $done (i32.eq (local.get $i) (local.get $count)))
                       (call $verdict
                         (i32.add (local.get $entries) (i32.mul (local.get $i) (i32.const 56)))
                         (i32.add (local.get $out) (i32.mul (local.get $i) (i32.const 12))))
                       (local.set $i (i32.add (local.get $i) (i32.const 1)))
                       (br $next)))
                     (i32.store (i32.const 1100) (local.get $out))
                     (i32.store (i32.const 1104)
                       (i32.sub (local.get $count) (global.get $short)))
                     (i32.const 1100))
                   (func (export "cabi_post_farshore:policy/exclusion@{version}#exclude")
                     (param i32) {after})"#
            )
        };
        format!(
            r#"(module
              (import "farshore:policy/log@{version}" "write" (func $log (param i32 i32 i32)))
              {imports}
              (memory (export "memory") {pages})
              (global $top (mut i32) (i32.const 8192))
              (global $short (mut i32) (i32.const 0))
              (data (i32.const 16) "guest1.0.0onetwo")
              (data (i32.const 32) "told to\1b[31m stop")
              (func $alloc (param $size i32) (result i32) (local $at i32)
                (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
                (global.set $top (i32.add (local.get $at) (local.get $size)))
                (if (i32.gt_u (global.get $top) (i32.shl (memory.size) (i32.const 16))) (then
                  (drop (memory.grow (i32.add (i32.const 1)
                    (i32.sub (i32.shr_u (global.get $top) (i32.const 16)) (memory.size)))))))
                ;; Verdicts are written where older ones may have been.
                (memory.fill (local.get $at) (i32.const 0) (local.get $size))
                (local.get $at))
              (func (export "cabi_realloc") (param i32 i32 i32) (param $size i32) (result i32)
                {realloc})
              (func $deep (param i32)
                (call $deep (i32.add (local.get 0) (i32.const 1)))
                (i32.store (i32.const 1900) (local.get 0)))
              (func $verdict (param $entry i32) (param $out i32)
                (local $first i32) (local $last i32) (local $i i32)
                (local.set $first (i32.load8_u (i32.load (local.get $entry))))
                (local.set $last (i32.load8_u (i32.sub (i32.add (i32.load (local.get $entry))
                  (i32.load offset=4 (local.get $entry))) (i32.const 1))))
                {verdict})
              (func $list_at (param $at i32) (param $ptr i32) (param $len i32)
                (i32.store (local.get $at) (local.get $ptr))
                (i32.store offset=4 (local.get $at) (local.get $len)))
              (func (export "farshore:policy/lifecycle@{version}#configure")
                (param $settings i32) (param $count i32) (param $seconds i64) (param $nanos i32)
                (result i32) (local $i i32)
                (call $list_at (i32.const 1028) (i32.const 16) (i32.const 5))
                (call $list_at (i32.const 1036) (i32.const 21) (i32.const 5))
                (call $list_at (i32.const 1044) (i32.const 1060) (i32.const 2))
                (call $list_at (i32.const 1060) (i32.const 26) (i32.const 3))
                (call $list_at (i32.const 1068) (i32.const 29) (i32.const 3))
                {configure}
                (i32.const 1024))
              {exclusion}
              {resolve}
              {extra}
            )"#
        )
    }

    /// The core module, with its interface in it.
    pub fn module(&self) -> Vec<u8> {
        let mut module = wat::parse_str(self.text()).expect("text of a module");
        let mut resolve = Resolve::default();
        let package = resolve.push_str("policy.wit", &self.wit).expect("an interface");
        let world = resolve.select_world(&[package], Some(self.world)).expect("a world");
        wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
            .expect("embedded");
        module
    }

    /// The component.
    pub fn build(&self) -> Vec<u8> {
        wrap(&self.module()).expect("a component")
    }

    /// Configured, with the usual limits.
    pub fn configured(&self, host: &Host) -> Configured {
        self.with_limits(host, Limits::default())
    }

    /// Configured, with these limits.
    pub fn with_limits(&self, host: &Host, limits: Limits) -> Configured {
        let component = host.load(&self.build(), &limits).expect("a policy");
        component.configure("guest", &[], limits, OnFault::Replicate, AT).expect("configured")
    }
}

/// A path of a test.
pub fn path(text: &str) -> RelPath {
    RelPath::new(text.as_bytes()).expect("a path")
}

/// An entry of a path.
pub fn candidate(path: &RelPath) -> Candidate<'_> {
    Candidate { path, kind: EntryKind::File, size: 7, mtime: AT, mode: 0o644, uid: 1, gid: 2 }
}
