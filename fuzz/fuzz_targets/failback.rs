//! Lists of changes and plans of a failback: any bytes are one, or refused.
#![no_main]

use farshore_core::failback::SideChange;
use farshore_core::failback::list::ListReader;
use farshore_core::failback::plan::PlanReader;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(change) = SideChange::from_bytes(data) {
        assert_eq!(change.to_bytes(), data);
    }
    for magic in [&b""[..], b"fsfbchg1", b"fsfbpln1"] {
        let bytes = [magic, data].concat();
        let _read_or_refused = ListReader::new(&bytes[..]).and_then(ListReader::read_all).is_ok();
        let _read_or_refused = PlanReader::new(&bytes[..]).and_then(PlanReader::check).is_ok();
    }
});
