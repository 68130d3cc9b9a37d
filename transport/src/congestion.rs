//! Congestion control that lets a close through and tells the gate which datagrams are no probes.
//!
//! Guarantees that the packet that closes a connection is sent at once. quinn-proto 0.11.19 holds it
//! to the congestion window and the pacer while anything else is pending, and a closed connection
//! takes no acknowledgements, so a link closed in the middle of a transfer would say nothing and
//! leave its peer to the idle timeout. The first window holds some datagrams of the path's size. It
//! changes nothing else. Nothing survives a crash.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use quinn::congestion::{BbrConfig, Controller, ControllerFactory, CubicConfig};
use quinn_proto::RttEstimator;

use crate::{config::Congestion, path::Gate};

mod rate;

use rate::Rate;
pub(crate) use rate::TRAIN_DATAGRAMS;

/// Datagrams in the first window, where they are larger than quinn reckons with.
const FIRST_WINDOW_DATAGRAMS: u64 = 4;
/// The first window of RFC 9002.
const FIRST_WINDOW_BYTES_MIN: u64 = 14_720;

/// Whether a connection is about to be closed; shared with its congestion controller.
#[derive(Debug, Clone, Default)]
pub(crate) struct Closing(Arc<AtomicBool>);

impl Closing {
    /// Closes `connection`, past its congestion window.
    pub(crate) fn close(&self, connection: &quinn::Connection, code: quinn::VarInt, reason: &str) {
        self.0.store(true, Ordering::Release);
        connection.close(code, reason.as_bytes());
    }
}

/// Makes controllers of the kind asked for, for one connection.
pub(crate) fn factory(
    kind: Congestion,
    closing: Closing,
    gate: Arc<Gate>,
) -> Arc<dyn ControllerFactory + Send + Sync + 'static> {
    let inner: Arc<dyn ControllerFactory + Send + Sync> = match kind {
        Congestion::Cubic => {
            let mut cubic = CubicConfig::default();
            let first = FIRST_WINDOW_DATAGRAMS * u64::from(gate.mtu.initial);
            cubic.initial_window(first.max(FIRST_WINDOW_BYTES_MIN));
            Arc::new(cubic)
        }
        Congestion::Bbr => Arc::new(BbrConfig::default()),
        Congestion::Rate => Arc::new(RateFactory { gate: Arc::clone(&gate) }),
    };
    Arc::new(Factory { inner, closing, gate })
}

struct RateFactory {
    gate: Arc<Gate>,
}

impl ControllerFactory for RateFactory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let first = FIRST_WINDOW_DATAGRAMS * u64::from(current_mtu);
        Box::new(Rate::new(
            now,
            current_mtu,
            first.max(FIRST_WINDOW_BYTES_MIN),
            Arc::clone(&self.gate),
        ))
    }
}

struct Factory {
    inner: Arc<dyn ControllerFactory + Send + Sync>,
    closing: Closing,
    gate: Arc<Gate>,
}

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        self.gate.confirm(current_mtu);
        let inner = Arc::clone(&self.inner).build(now, current_mtu);
        let (closing, gate) = (self.closing.clone(), Arc::clone(&self.gate));
        Box::new(LetsCloseThrough { inner, closing, gate })
    }
}

struct LetsCloseThrough {
    inner: Box<dyn Controller>,
    closing: Closing,
    gate: Arc<Gate>,
}

impl Controller for LetsCloseThrough {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_acknowledged: Option<u64>,
    ) {
        self.inner.on_end_acks(now, in_flight, app_limited, largest_acknowledged);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.inner.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.gate.confirm(new_mtu);
        self.inner.on_mtu_update(new_mtu);
    }

    /// Without bound while closing: nothing but the close is sent then, and a window above 4 GiB
    /// also switches quinn's pacer off.
    fn window(&self) -> u64 {
        if self.closing.0.load(Ordering::Acquire) { u64::MAX } else { self.inner.window() }
    }

    fn metrics(&self) -> quinn_proto::congestion::ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        let (closing, gate) = (self.closing.clone(), Arc::clone(&self.gate));
        Box::new(Self { inner: self.inner.clone_box(), closing, gate })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self.inner.into_any()
    }
}
