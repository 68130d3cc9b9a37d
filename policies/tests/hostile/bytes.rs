//! Bytes that are no policy.

use farshore_policies::Limits;

use crate::Expect::Refused;
use crate::common::{Guest, WIT};
use crate::{Case, Expect};

/// A component of text, in the component model's own syntax.
fn component(text: &str) -> Vec<u8> {
    wat::parse_str(format!("(component {text})")).expect("a component")
}

/// One that imports an instance of `name` with these exports.
fn importing(name: &str, exports: &str) -> Vec<u8> {
    component(&format!(r#"(import "{name}" (instance {exports}))"#))
}

/// The usual guest against an interface in which `from` is `to`.
fn against(from: &str, to: &str) -> Guest {
    assert!(WIT.contains(from), "{from}");
    Guest { wit: WIT.replace(from, to), ..Guest::default() }
}

/// A guest of another version.
fn of_version(version: &'static str) -> Guest {
    Guest { version, ..against("policy@1.0.0", &format!("policy@{version}")) }
}

/// `bytes` with a custom section of so many bytes.
fn padded(mut bytes: Vec<u8>, padding: usize) -> Vec<u8> {
    let content = padding + 5;
    bytes.push(0);
    for shift in [0, 7, 14, 21] {
        bytes.push(u8::try_from(content >> shift & 0x7f).expect("seven bits") | 0x80);
    }
    bytes.push(u8::try_from(content >> 28 & 0x0f).expect("four bits"));
    bytes.extend_from_slice(b"\x04padd");
    bytes.resize(bytes.len() + padding, 0);
    bytes
}

pub(crate) fn cases() -> Vec<Case> {
    let mut all = plain();
    all.extend(proposals());
    all.extend(imports());
    all.extend(exports());
    all
}

fn plain() -> Vec<Case> {
    let good = Guest::default().build();
    let half = good[..good.len() / 2].to_vec();
    let mut trailing = good.clone();
    trailing.extend_from_slice(b"and more");
    let mut cases = vec![
        Case::new("no bytes", Vec::new(), Refused("not WebAssembly")),
        Case::new("prose", b"exclude everything".to_vec(), Refused("not WebAssembly")),
        Case::new("a program", b"\x7fELF\x02\x01\x01".to_vec(), Refused("not WebAssembly")),
        Case::new("half a magic", b"\0as".to_vec(), Refused("not WebAssembly")),
        Case::new("text", b"(component)".to_vec(), Refused("as text: build it first")),
        Case::new("text after a comment", b"\n;; mine\n(module)".to_vec(), Refused("as text")),
        Case::new("an empty module", b"\0asm\x01\0\0\0".to_vec(), Refused("a core module")),
        Case::new(
            "the guest's module",
            Guest::default().module(),
            Refused("'farshore policy build' makes one of it"),
        ),
        Case::new("another layer", b"\0asm\x0d\0\x02\0".to_vec(), Refused("not known")),
        Case::new("a magic alone", b"\0asm".to_vec(), Refused("not known")),
        Case::new("an empty component", component(""), Refused("no farshore:policy/lifecycle")),
        Case::new("a component cut short", half, Refused("not a valid component")),
        Case::new("a component and more", trailing, Refused("not a valid component")),
        Case::new("18 MB", padded(good.clone(), 18_000_000), Refused("raise component-bytes")),
    ];
    let mut raised =
        Case::new("18 MB, allowed", padded(good.clone(), 18_000_000), Expect::Harmless);
    raised.limits = Limits { component_bytes: 20 << 20, ..Limits::default() };
    cases.push(raised);
    let mut over =
        Case::new("33 MiB", padded(good.clone(), 33 << 20), Refused("the limit is 33554432"));
    over.limits = Limits { component_bytes: 32 << 20, ..Limits::default() };
    cases.push(over);
    // Whatever a flipped byte makes of it, the host says so; most of it is in code, which is invalid.
    let code = good.windows(4).position(|w| w == [0x41, 0x80, 0xc0, 0x00]).expect("a constant");
    let mut flipped = good;
    flipped[code] = 0xff;
    cases.push(Case::new("a wrong instruction", flipped, Refused("not a valid component")));
    cases
}

/// What WebAssembly has and policies do not: it would let a policy answer otherwise on another machine.
fn proposals() -> Vec<Case> {
    let case = |what: &str, module: &str, text| {
        Case::new(what, component(&format!("(core module {module})")), Refused(text))
    };
    let operands = "(v128.const i64x2 0 0) (v128.const i64x2 0 0)";
    vec![
        case("a shared memory", "(memory 1 1 shared)", "threads"),
        case(
            "an atomic addition",
            "(memory 1) (func (result i32) (i32.atomic.rmw.add (i32.const 0) (i32.const 1)))",
            "threads",
        ),
        case("a 64-bit memory", "(memory i64 1)", "memory64"),
        case("a 64-bit table", "(table i64 1 funcref)", "memory64"),
        case(
            "a vector addition that may round twice",
            &format!("(func (result v128) (f32x4.relaxed_madd {operands} (v128.const i64x2 0 0)))"),
            "relaxed SIMD",
        ),
        case(
            "a vector swizzle that may differ",
            &format!("(func (result v128) (i8x16.relaxed_swizzle {operands}))"),
            "relaxed SIMD",
        ),
    ]
}

fn imports() -> Vec<Case> {
    let nothing = r#"(export "f" (func))"#;
    let level =
        r#"(type $l (enum "debug" "info" "warn" "error")) (export "level" (type $e (eq $l)))"#;
    let refused = |what: &str, bytes, text| Case::new(what, bytes, Refused(text));
    vec![
        refused(
            "a wasip2 build",
            importing("wasi:cli/environment@0.2.6", nothing),
            "build it for wasm32-unknown-unknown",
        ),
        refused("a clock", importing("wasi:clocks/wall-clock@0.2.6", nothing), "wasip2"),
        refused("randomness", importing("wasi:random/random@0.3.0", ""), "wasi:random"),
        refused("files", importing("wasi:filesystem/types@0.2.0", nothing), "no system to call"),
        refused("a function", component(r#"(import "now" (func))"#), "it imports now"),
        refused("another package", importing("other:thing/log@1.0.0", nothing), "other:thing/log"),
        refused("a package like ours", importing("farshore:policyx/log@1.0.0", ""), "not offered"),
        refused("no version", importing("farshore:policy/log", nothing), "not offered to policies"),
        refused(
            "a later interface",
            importing("farshore:policy/clock@1.1.0", nothing),
            "clock@1.1.0",
        ),
        refused(
            "a later interface, empty",
            importing("farshore:policy/clock@1.1.0", ""),
            "not offered",
        ),
        refused(
            "hooks as imports",
            importing("farshore:policy/exclusion@1.0.0", nothing),
            "not offered",
        ),
        refused(
            "log of version 2",
            importing("farshore:policy/log@2.0.0", nothing),
            "use a newer Farshore",
        ),
        refused(
            "log of version 0.9",
            importing("farshore:policy/log@0.9.0", nothing),
            "build it against this version",
        ),
        refused(
            "log with more",
            importing("farshore:policy/log@1.2.0", nothing),
            "imports f of farshore:policy/log@1.2.0",
        ),
        refused(
            "types with a function",
            importing("farshore:policy/types@1.0.0", nothing),
            "imports f of",
        ),
        refused(
            "contents that can be written",
            importing(
                "farshore:policy/contents@1.0.0",
                r#"(export "versions" (type $v (sub resource)))
                   (export "[method]versions.write" (func (param "self" (borrow $v))))"#,
            ),
            "[method]versions.write",
        ),
        refused(
            "another resource",
            importing("farshore:policy/contents@1.0.0", r#"(export "site" (type (sub resource)))"#),
            "imports site of",
        ),
        refused(
            "a module",
            component(r#"(import "m" (core module))"#),
            "it imports m, which is not offered",
        ),
        refused(
            "log as a function",
            component(r#"(import "farshore:policy/log@1.0.0" (func))"#),
            "not offered",
        ),
        refused(
            "log of numbers",
            Guest {
                extra: String::new(),
                ..against(
                    "write: func(level: level, message: string)",
                    "write: func(level: level, message: list<u16>)",
                )
            }
            .build(),
            "of another type",
        ),
        refused(
            "a level and no policy",
            importing("farshore:policy/log@1.0.0", level),
            "exports no",
        ),
    ]
}

fn exports() -> Vec<Case> {
    let refused = |what: &str, guest: Guest, text| Case::guest(what, guest, Refused(text));
    let world =
        "world exclude-policy {\n  import log;\n  export lifecycle;\n  export exclusion;\n}";
    let without = |part: &str| against(world, &world.replace(part, ""));
    // It is refused for its name, before it is looked into.
    let beside = |what: &str, other: &'static str| {
        let exports = ["lifecycle@1.0.0", "resolution@1.0.0", other]
            .map(|interface| format!(r#"(export "farshore:policy/{interface}" (instance $i))"#));
        let bytes = component(&format!("(instance $i) {}", exports.concat()));
        let text = "and this Farshore has farshore:policy@1.0.0";
        Case::new(what, bytes, Refused(text))
    };
    vec![
        refused(
            "no hook",
            without("  export exclusion;\n"),
            "neither farshore:policy/exclusion nor",
        ),
        refused("no lifecycle", without("  export lifecycle;\n"), "no farshore:policy/lifecycle"),
        beside("a hook of version 2 beside one of ours", "exclusion@2.0.0"),
        beside("a hook of a draft beside one of ours", "exclusion@1.0.0-rc.1"),
        beside("a lifecycle of version 2 beside ours", "lifecycle@2.0.0"),
        refused("version 2", of_version("2.0.0"), "farshore:policy/log@2.0.0"),
        refused("version 0.9", of_version("0.9.0"), "build it against this version"),
        refused("a draft of version 1", of_version("1.0.0-rc.1"), "1.0.0-rc.1"),
        Case::guest("version 1.0.7", of_version("1.0.7"), Expect::Harmless),
        Case::guest("version 1.9.0, nothing new", of_version("1.9.0"), Expect::Harmless),
        refused(
            "an entry with more",
            against(
                "    uid: u32,\n    gid: u32,\n  }",
                "    uid: u32,\n    gid: u32,\n    links: u32,\n  }",
            ),
            "exclude is of another type",
        ),
        refused(
            "one more action",
            against(
                "enum action { replicate, exclude, defer }",
                "enum action { replicate, exclude, defer, remove }",
            ),
            "of another type than in version 1.0.0",
        ),
        refused(
            "another kind of paths",
            against("type path = list<u8>", "type path = string"),
            "of another type",
        ),
        refused(
            "manifest with more",
            against("rules: list<string> }", "rules: list<list<u8>> }"),
            "configure is of another type",
        ),
    ]
}
