//! The policies that come with Farshore: the worked examples of the SDK, usable without a file.
//!
//! Guarantees: the bytes are those of the committed components, so a policy has the same id whether it
//! is named or given as a file.

/// Name and component of each, by name.
pub const EMBEDDED: [(&str, &[u8]); 3] = [
    ("by-age-size-owner", include_bytes!("../../tests/fixtures/policies/by-age-size-owner.wasm")),
    ("merge-journals", include_bytes!("../../tests/fixtures/policies/merge-journals.wasm")),
    ("mft-defaults", include_bytes!("../../tests/fixtures/policies/mft-defaults.wasm")),
];

/// The component of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static [u8]> {
    EMBEDDED.iter().find(|(known, _)| *known == name).map(|(_, component)| *component)
}

/// Whether it is one of those, wherever it was found.
#[must_use]
pub fn has(component: &[u8]) -> bool {
    EMBEDDED.iter().any(|(_, known)| *known == component)
}
