//! Links that one site asks the other for.

use farshore_core::codec::{DecodeError, Decoder, Encoder};

use super::SHARE_NAME_MAX;

/// What a link of its own is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Purpose {
    /// The called site lists what it changed since the common base.
    Inventory = 1,
    /// The called site does its part of a plan.
    Reconcile = 2,
    /// The called site sends what a plan brings over.
    Carry = 3,
    /// The called site compares what it believes with what the calling one has, and sends nothing.
    Compare = 4,
    /// The calling site reads pieces of files of the called one.
    Read = 5,
}

/// A link of its own for one purpose, between two sites.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What for.
    pub purpose: Purpose,
    /// The share.
    pub share: String,
    /// The asking site's number for it; 0 when the site that dials calls.
    pub number: u64,
    /// Which plan, where there is one.
    pub plan: [u8; 32],
}

impl Call {
    pub(super) fn encode(&self, e: &mut Encoder) {
        e.put_u8(self.purpose as u8);
        e.put_bytes(self.share.as_bytes());
        e.put_u64(self.number);
        e.put_raw(&self.plan);
    }

    pub(super) fn decode(d: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let purpose = match d.take_u8("purpose of a call")? {
            1 => Purpose::Inventory,
            2 => Purpose::Reconcile,
            3 => Purpose::Carry,
            4 => Purpose::Compare,
            5 => Purpose::Read,
            other => {
                let found = u64::from(other);
                return Err(DecodeError::Invalid { what: "purpose of a call", found });
            }
        };
        Ok(Self {
            purpose,
            share: d.take_text("share name", SHARE_NAME_MAX)?,
            number: d.take_u64("number of a call")?,
            plan: d.take_array("plan of a call")?,
        })
    }
}
