//! What a target does without its source.

use farshore_proto::link::{BulkSend, LinkStats};

use super::*;

/// A peer that says nothing.
struct Silent;

impl Silent {
    fn gone<T>() -> Result<T, LinkError> {
        Err(LinkError::ClosedByPeer { code: 0, reason: "silent".into() })
    }
}

impl Link for Silent {
    fn send_control(&self, _: Bytes) -> Result<(), LinkError> {
        Self::gone()
    }

    fn recv_control(&self) -> Result<Option<Bytes>, LinkError> {
        Self::gone()
    }

    fn finish_control(&self) -> Result<(), LinkError> {
        Self::gone()
    }

    fn open_bulk(&self) -> Result<Box<dyn BulkSend>, LinkError> {
        Self::gone()
    }

    fn accept_bulk(&self) -> Result<Option<Box<dyn BulkReceive>>, LinkError> {
        Self::gone()
    }

    fn close(&self, _: u32, _: &str) {}

    fn stats(&self) -> LinkStats {
        LinkStats::default()
    }
}

/// A session with a source of these versions, which was welcomed.
fn session(versions: (u16, u16)) -> TargetSession {
    let mut machine = TargetSession::new(Epoch(0));
    let hello = Message::Hello {
        versions,
        share: "s".into(),
        source: StoreId([0; 16]),
        epoch: Epoch(0),
        trust_target: false,
    };
    machine.handle(&hello).expect("a hello");
    machine.welcome_sent(0);
    machine
}

#[test]
fn a_source_too_old_to_say_its_policies_is_refused_where_they_matter() {
    let wanted = PolicySet::default();
    for version in 1..POLICIES_VERSION {
        let error = receive_policies(&Silent, &mut session((1, version)), Some(&wanted))
            .expect_err("nobody knows by what it decides");
        assert!(
            matches!(error, TargetError::Session(SessionError::PoliciesUnknown { version: v }) if v == version),
            "{error:?}"
        );
        assert_eq!(error.close_code(), CloseCode::PoliciesDiffer);
        assert!(error.to_string().contains("upgrade it"), "{error}");
        // A target that takes any asks for nothing.
        let any = receive_policies(&Silent, &mut session((1, version)), None);
        assert_eq!(any.expect("served"), None);
    }
    let asked = receive_policies(&Silent, &mut session((1, POLICIES_VERSION)), Some(&wanted));
    assert!(matches!(asked, Err(TargetError::Link(_))), "{asked:?}");
}
