//! Opens a TUN device. The only unsafe code of the harness.
//!
//! Guarantees: the device exists in the namespace of the calling thread and lives as long as the file.
//! Refuses names longer than the kernel takes.

use std::fs::{File, OpenOptions};
use std::path::Path;

use rustix::ioctl::{Opcode, Setter};

use crate::bench::{BenchError, Context};

/// `TUNSETIFF` of `linux/if_tun.h`: `_IOW('T', 202, int)`.
const TUNSETIFF: Opcode = 0x4004_54ca;
/// `IFF_TUN | IFF_NO_PI`: IP packets without a prefix.
const FLAGS: u16 = 0x0001 | 0x1000;
/// `IFNAMSIZ`, the closing zero included.
const NAME_BYTES: usize = 16;

/// `struct ifreq` as `TUNSETIFF` reads and writes it.
#[repr(C)]
struct Request {
    name: [u8; NAME_BYTES],
    flags: u16,
    unused: [u8; 22],
}

/// Makes the TUN device `name` in the present network namespace.
#[allow(unsafe_code)]
pub(super) fn open(name: &str) -> Result<File, BenchError> {
    let path = Path::new("/dev/net/tun");
    let file = OpenOptions::new().read(true).write(true).open(path).at("open", path)?;
    let mut request = Request { name: [0; NAME_BYTES], flags: FLAGS, unused: [0; 22] };
    let short = name.as_bytes();
    request.name[..short.len().min(NAME_BYTES - 1)]
        .copy_from_slice(&short[..short.len().min(NAME_BYTES - 1)]);
    // SAFETY: TUNSETIFF takes a pointer to a `struct ifreq` of 40 bytes, which `Request` mirrors field
    // by field (checked below); the kernel reads it, and writes the name back within those bytes.
    let result = unsafe { rustix::ioctl::ioctl(&file, Setter::<TUNSETIFF, Request>::new(request)) };
    result.map_err(std::io::Error::from).at("make a TUN device of", path)?;
    Ok(file)
}

const _: () = assert!(size_of::<Request>() == 40);
