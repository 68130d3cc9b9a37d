//! Entries, recipes, paths and recovery points: any bytes are one, or refused.
#![no_main]

use farshore_core::codec::Decoder;
use farshore_core::entry::Entry;
use farshore_core::path::RelPath;
use farshore_core::recipe::Recipe;
use farshore_core::recovery_point::RecoveryPoint;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut d = Decoder::new(data);
    if let Ok(entry) = Entry::decode(&mut d) {
        assert_eq!(entry.to_bytes(), &data[..data.len() - d.remaining()]);
    }
    if let Ok(recipe) = Recipe::decode(&mut Decoder::new(data)) {
        let again = recipe.to_bytes();
        assert_eq!(Recipe::decode(&mut Decoder::new(&again)), Ok(recipe));
    }
    let _decoded_or_refused = RecoveryPoint::decode(&mut Decoder::new(data)).is_ok();
    if let Ok(path) = RelPath::new(data) {
        assert_eq!(RelPath::from_key(&path.key()), Ok(path));
    }
});
