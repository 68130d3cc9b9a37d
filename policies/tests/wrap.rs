//! Core modules become components, always the same ones, or the message says what they lack.

#[path = "common/mod.rs"]
mod common;

use common::Guest;
use farshore_policies::wrap::{WrapError, wrap};
use farshore_policies::{Host, Limits};

#[test]
fn a_module_becomes_the_same_component_each_time() {
    let module = Guest::default().module();
    let component = wrap(&module).expect("a component");
    assert_eq!(component, wrap(&module).expect("a component"));
    let host = Host::new(None).expect("a host");
    host.load(&component, &Limits::default()).expect("a policy");
    assert!(matches!(wrap(&component), Err(WrapError::Component)));
}

#[test]
fn what_is_no_module_of_our_interface_is_told_so() {
    let plain = wat::parse_str(Guest::default().text()).expect("a module");
    assert!(matches!(wrap(&plain), Err(WrapError::NoInterface)));
    assert!(matches!(wrap(b"(module)"), Err(WrapError::NotWasm)));
    assert!(matches!(wrap(b""), Err(WrapError::NotWasm)));
    let module = Guest::default().module();
    assert!(wrap(&module[..module.len() / 2]).is_err());
    let wasi = Guest {
        extra: r#"(import "wasi_snapshot_preview1" "fd_write" (func))"#.to_owned(),
        ..Guest::default()
    };
    // Imports come first in a module.
    let text = wasi.text();
    let (head, import) = (text.replace(&wasi.extra, ""), wasi.extra.clone());
    let text = head.replacen("(module", &format!("(module {import}"), 1);
    let mut module = wat::parse_str(text).expect("a module");
    embed(&mut module);
    let error = wrap(&module).expect_err("wasip1");
    assert!(error.to_string().contains("build it for wasm32-unknown-unknown"), "{error}");
    // It says that it has a hook, and has none.
    let mut module = wat::parse_str("(module)").expect("a module");
    embed(&mut module);
    assert!(matches!(wrap(&module), Err(WrapError::Misfit(_))));
}

/// Says that it has our interface.
fn embed(module: &mut Vec<u8>) {
    let mut resolve = wit_parser::Resolve::default();
    let package = resolve.push_str("policy.wit", common::WIT).expect("an interface");
    let world = resolve.select_world(&[package], Some("exclude-policy")).expect("a world");
    let encoding = wit_component::StringEncoding::UTF8;
    wit_component::embed_component_metadata(module, &resolve, world, encoding).expect("embedded");
}
