//! A version as a daemon says it to somebody who reads the share himself: what the file was, and where its content
//! stood when the daemon was asked.
//!
//! Guarantees: nothing said is taken for the content; what is read at a place counts when its digest is the version's.
//! A place that a batch emptied meanwhile is missed, not mistaken: then the daemon is asked again.

use farshore_core::entry::{Metadata, Timestamp, Xattrs};
use farshore_core::path::{RelPath, unescape};
use farshore_core::recipe::{FileDigest, digest_from_hex, hex};
use farshore_engine::catalog::{CatalogReader, HistoryId, Location};
use farshore_engine::history::{self, Version};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{failure, parse_wanted};
use crate::exit::{Exit, Failure};
use crate::report::point_json;

/// What is said of one version.
#[derive(Debug, Serialize, Deserialize)]
pub struct Said {
    /// The state it is of.
    pub batch: u64,
    /// The recovery point, when it is one.
    pub recovery_point: Option<Value>,
    size: u64,
    /// The digest, in hexadecimal.
    content: String,
    mode: u32,
    /// Seconds and nanoseconds.
    mtime: (i64, u32),
    places: Vec<Place>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Place {
    /// At this path, escaped.
    Live(String),
    /// In history: set and number.
    History(u64, u32),
}

/// What a catalog knows of the file at `path` as of `at`.
///
/// # Errors
/// [`Failure`].
pub fn say(reader: &CatalogReader, path: &RelPath, at: &str) -> Result<Said, Failure> {
    let wanted = parse_wanted(at)
        .map_err(|why| Failure::usage(why, "farshore history list DST --points lists them"))?;
    let (batch, point) = history::find(reader, &wanted).map_err(|e| failure(&e))?;
    let version = history::version(reader, batch, path).map_err(|e| failure(&e))?;
    let mut content = String::new();
    hex(&version.content.0, &mut content).map_err(|e| Failure::new(Exit::Internal, &e))?;
    let Timestamp { seconds, nanos } = version.meta.mtime;
    let places = version.places.into_iter().map(|place| match place {
        Location::Live(path) => Place::Live(path.to_string()),
        Location::History(HistoryId { set, number }) => Place::History(set, number),
    });
    Ok(Said {
        batch,
        recovery_point: point.map(|kept| point_json(&kept.point)),
        size: version.size,
        content,
        mode: version.meta.mode,
        mtime: (seconds, nanos),
        places: places.collect(),
    })
}

impl Said {
    /// What is to be read, of owner and attributes nothing.
    ///
    /// # Errors
    /// [`Failure`]: it makes no sense.
    pub fn version(self) -> Result<Version, Failure> {
        let senseless = || Failure {
            exit: Exit::Connection,
            message: "the daemon's answer makes no sense".into(),
            hint: Some("is the daemon of another version?".into()),
        };
        let place = |place| match place {
            Place::History(set, number) => Some(Location::History(HistoryId { set, number })),
            Place::Live(path) => RelPath::new(unescape(&path)?).ok().map(Location::Live),
        };
        let places = self.places.into_iter().map(place).collect::<Option<_>>();
        let content = digest_from_hex(&self.content).map(FileDigest);
        let (seconds, nanos) = self.mtime;
        let meta = Metadata {
            mode: self.mode,
            uid: 0,
            gid: 0,
            mtime: Timestamp { seconds, nanos },
            xattrs: Xattrs::default(),
        };
        Ok(Version {
            size: self.size,
            content: content.ok_or_else(senseless)?,
            meta,
            places: places.ok_or_else(senseless)?,
            chunking: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(content: &str, live: &str) -> Said {
        Said {
            batch: 7,
            recovery_point: None,
            size: 9,
            content: content.into(),
            mode: 0o640,
            mtime: (-5, 17),
            places: vec![Place::Live(live.into()), Place::History(3, 4)],
        }
    }

    #[test]
    fn a_version_comes_over_as_it_is_and_nonsense_is_refused() {
        let digest = "0123456789abcdef".repeat(4);
        let text = serde_json::to_string(&said(&digest, "home/a\\xff")).expect("JSON");
        let read: Said = serde_json::from_str(&text).expect("JSON");
        let version = read.version().expect("a version");
        let live = RelPath::new(&b"home/a\xff"[..]).expect("a path");
        let kept = HistoryId { set: 3, number: 4 };
        assert_eq!(version.places, [Location::Live(live), Location::History(kept)]);
        assert_eq!(version.content.0[..2], [0x01, 0x23]);
        assert_eq!((version.size, version.meta.mode), (9, 0o640));
        assert_eq!(version.meta.mtime, Timestamp { seconds: -5, nanos: 17 });
        let nonsense = [(&digest[2..], "a"), ("", "a"), (&*digest, "../a"), (&*digest, "\\xq")];
        for (content, live) in nonsense {
            assert!(said(content, live).version().is_err(), "{content} {live}");
        }
    }
}
