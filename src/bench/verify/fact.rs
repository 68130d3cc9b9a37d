//! The kinds of differences between two trees, and what a tool may claim not to cause.
//!
//! Guarantees: missing or additional entries, another kind, other bytes and another link target are
//! held against every tool; all else only against one that claims to keep it. Refuses nothing.

use std::collections::BTreeSet;

use serde::Serialize;

/// What can differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fact {
    /// An entry is missing, or there is one too many.
    Entry,
    /// The kind of an entry.
    Kind,
    /// The bytes of a file.
    Content,
    /// Where a link points.
    LinkTarget,
    /// Permission bits.
    Mode,
    /// Owner or group.
    Owner,
    /// The time of a file, by at least a second.
    Seconds,
    /// The time of a file, by less than a second.
    Times,
    /// The time of a folder.
    FolderTimes,
    /// The time of a link.
    LinkTimes,
    /// The number of a device.
    Devices,
    /// Which names are one file.
    HardLinks,
    /// Extended attributes, ACLs among them.
    Xattrs,
}

impl Fact {
    /// The facts a tool need not keep, with the words that claim them.
    const CLAIMABLE: [(&'static str, Self); 9] = [
        ("mode", Self::Mode),
        ("owner", Self::Owner),
        ("seconds", Self::Seconds),
        ("times", Self::Times),
        ("folder-times", Self::FolderTimes),
        ("link-times", Self::LinkTimes),
        ("devices", Self::Devices),
        ("hard-links", Self::HardLinks),
        ("xattrs", Self::Xattrs),
    ];

    /// Its word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Entry => "entry",
            Self::Kind => "kind",
            Self::Content => "content",
            Self::LinkTarget => "link-target",
            claimable => {
                let found = Self::CLAIMABLE.iter().find(|(_, fact)| *fact == claimable);
                found.map_or("", |(word, _)| *word)
            }
        }
    }

    /// The fact that a word of a claim names.
    pub(crate) fn of_word(word: &str) -> Option<Self> {
        Self::CLAIMABLE.iter().find(|(name, _)| *name == word).map(|(_, fact)| *fact)
    }
}

/// What a tool claims to keep, beside names, kinds, bytes and link targets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Claims(BTreeSet<Fact>);

impl Claims {
    /// Everything.
    pub(crate) fn all() -> Self {
        Self(Fact::CLAIMABLE.iter().map(|(_, fact)| *fact).collect())
    }

    /// Adds a fact; whoever keeps fractions of a second keeps the seconds.
    pub(crate) fn add(&mut self, fact: Fact) {
        self.0.insert(fact);
        if fact == Fact::Times {
            self.0.insert(Fact::Seconds);
        }
    }

    /// Whether a difference of this kind is held against the tool.
    pub(crate) fn has(&self, fact: Fact) -> bool {
        let basic = [Fact::Entry, Fact::Kind, Fact::Content, Fact::LinkTarget];
        basic.contains(&fact) || self.0.contains(&fact)
    }

    /// The words that claim it.
    pub(crate) fn words(&self) -> String {
        let claimed = Fact::CLAIMABLE.iter().filter(|(_, fact)| self.0.contains(fact));
        let words: Vec<&str> = claimed.map(|(word, _)| *word).collect();
        if words.is_empty() { "content only".to_owned() } else { words.join(" ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_always_held_against_a_tool() {
        let mut claims = Claims::default();
        assert!(claims.has(Fact::Content) && claims.has(Fact::Entry) && !claims.has(Fact::Times));
        claims.add(Fact::Times);
        assert!(claims.has(Fact::Seconds));
        assert_eq!(claims.words(), "seconds times");
        assert!(Claims::all().has(Fact::Xattrs));
    }
}
