//! The tree with everything that is hard to carry: the items to preserve of the reliability study.
//!
//! What the file system or the user may not make is listed in [`Manifest::skipped`], never silent.
//! All times are set from the seed, so two trees of one seed are equal.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::rng::Rng;
use crate::tree::{Kind, Time, Tree, joined, shown};

/// What to build.
#[derive(Debug, Clone)]
pub struct Options {
    /// Items only root can make and read back: owners, devices, `trusted.*` and capabilities,
    /// modes without read permission. By default, whether we are root.
    pub privileged: bool,
    /// Entries of the wide directory; 1,000,000 on request.
    pub wide_count: u32,
    /// Levels of the deep chain; 0 for none. 30 levels of 200 bytes are beyond PATH_MAX.
    pub deep_levels: u32,
    /// Bytes of each name of the deep chain.
    pub deep_name_len: usize,
    /// A sparse file of 17 TiB, where the file system allows one.
    pub huge_sparse: bool,
    /// A file and a directory with the immutable flag. Needs root; [`crate::remove_tree`] clears it.
    pub immutable: bool,
    /// A second name of one file in a directory beside the root, named in [`Manifest::outside`].
    pub outside_link: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            privileged: rustix::process::geteuid().is_root(),
            wide_count: 5_000,
            deep_levels: 30,
            deep_name_len: 200,
            huge_sparse: true,
            immutable: false,
            outside_link: true,
        }
    }
}

impl Options {
    /// Only what rsync 3.5.0 can carry in reasonable time: no path beyond PATH_MAX, nothing huge.
    #[must_use]
    pub fn for_rsync() -> Self {
        Self { deep_levels: 15, huge_sparse: false, ..Self::default() }
    }

    /// As [`Self::for_rsync`], with 40 entries in the wide directory.
    #[must_use]
    pub fn small() -> Self {
        Self { wide_count: 40, ..Self::for_rsync() }
    }
}

/// What was made.
#[derive(Debug, Clone, Default)]
pub struct Manifest {
    /// Every entry but the bulk of the wide directory, in the order of making.
    pub made: Vec<Made>,
    /// What could not be made here, and why.
    pub skipped: Vec<Skipped>,
    /// The directory beside the root that holds the outside name; the caller's to remove.
    pub outside: Option<PathBuf>,
    /// Entries in all.
    pub count: u64,
}

/// An entry that was made.
#[derive(Debug, Clone)]
pub struct Made {
    /// Its path below the root.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
}

/// An item that could not be made.
#[derive(Debug, Clone)]
pub struct Skipped {
    /// Its path below the root; what is there may lack only an attribute.
    pub path: Vec<u8>,
    /// The error's text.
    pub reason: String,
}

/// The builder's name.
#[derive(Debug)]
pub struct TortureTree;

impl TortureTree {
    /// Builds the tree of `seed` in `root`, which is made when it is missing and must be empty.
    ///
    /// # Errors
    /// When something that every file system and user can do fails.
    pub fn build(root: &Path, seed: u64, options: &Options) -> io::Result<Manifest> {
        std::fs::create_dir_all(root)?;
        let tree = Tree::open(root)?;
        if !tree.list(b"")?.is_empty() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the root is not empty"));
        }
        let mut builder = Builder {
            tree,
            rng: Rng::new(seed),
            options: options.clone(),
            manifest: Manifest::default(),
            directories: Vec::new(),
        };
        builder.sizes()?;
        builder.names()?;
        builder.modes()?;
        builder.owners()?;
        builder.acls()?;
        builder.xattrs()?;
        builder.links(root)?;
        builder.symlinks()?;
        builder.sparse()?;
        builder.times()?;
        builder.specials()?;
        builder.empty()?;
        builder.wide()?;
        builder.deep()?;
        builder.finish()
    }
}

/// Version 2 of `system.posix_acl_*`: user::rwx, user:uid:perm, group::r-x, mask, other.
#[must_use]
pub fn posix_acl(uid: u32, perm: u16, mask: u16) -> Vec<u8> {
    const UNDEFINED: u32 = u32::MAX;
    let entries = [
        (1, 7, UNDEFINED),
        (2, perm, uid),
        (4, 5, UNDEFINED),
        (16, mask, UNDEFINED),
        (32, 0, UNDEFINED),
    ];
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        acl.extend_from_slice(&u16::to_le_bytes(tag));
        acl.extend_from_slice(&u16::to_le_bytes(perm));
        acl.extend_from_slice(&u32::to_le_bytes(id));
    }
    acl
}

/// `security.capability`, version 2: cap_net_bind_service, permitted and effective.
#[must_use]
pub fn file_capability() -> Vec<u8> {
    [0x0200_0001u32, 1 << 10, 0, 0, 0].iter().flat_map(|w| w.to_le_bytes()).collect()
}

struct Builder {
    tree: Tree,
    rng: Rng,
    options: Options,
    manifest: Manifest,
    /// Mode, where it is not the ACL's to say, and time: set last, the deepest first.
    directories: Vec<(Vec<u8>, Option<u32>, Time)>,
}

impl Builder {
    fn time(&mut self) -> Time {
        let seconds = 1_400_000_000 + i64::try_from(self.rng.below(300_000_000)).unwrap_or(0);
        Time { seconds, nanos: u32::try_from(self.rng.below(1_000_000_000)).unwrap_or(0) }
    }

    fn note(&mut self, path: &[u8], kind: Kind) {
        self.manifest.count += 1;
        self.manifest.made.push(Made { path: path.to_vec(), kind });
    }

    /// Keeps on when the machine or the user may not do it.
    fn attempt(&mut self, path: &[u8], result: io::Result<()>) {
        if let Err(error) = result {
            self.manifest.skipped.push(Skipped { path: path.to_vec(), reason: error.to_string() });
        }
    }

    fn dir(&mut self, path: &[u8]) -> io::Result<()> {
        self.dir_with(path, Some(0o755))
    }

    fn dir_with(&mut self, path: &[u8], mode: Option<u32>) -> io::Result<()> {
        self.tree.mkdir(path)?;
        let time = self.time();
        self.directories.push((path.to_vec(), mode, time));
        self.note(path, Kind::Directory);
        Ok(())
    }

    fn file(&mut self, path: &[u8], content: &[u8]) -> io::Result<()> {
        self.file_by(path, 0o644, |file| file.write_all_at(content, 0))
    }

    fn file_by(
        &mut self,
        path: &[u8],
        mode: u32,
        fill: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<()> {
        let file = self.tree.create(path, b"")?;
        fill(&file)?;
        drop(file);
        self.tree.chmod(path, mode)?;
        self.set_time(path)?;
        self.note(path, Kind::File);
        Ok(())
    }

    fn set_time(&mut self, path: &[u8]) -> io::Result<()> {
        let time = self.time();
        self.tree.set_mtime(path, time)
    }

    fn symlink(&mut self, path: &[u8], target: &[u8]) -> io::Result<()> {
        self.tree.symlink(path, target)?;
        self.set_time(path)?;
        self.note(path, Kind::Symlink);
        Ok(())
    }

    fn node(&mut self, path: &[u8], kind: Kind, rdev: u64) -> io::Result<()> {
        self.tree.mknod(path, kind, rdev)?;
        self.tree.chmod(path, 0o640)?;
        self.set_time(path)?;
        self.note(path, kind);
        Ok(())
    }

    fn sizes(&mut self) -> io::Result<()> {
        self.dir(b"sizes")?;
        let mib = 1 << 20;
        for size in [0, 1, 2, 4095, 4096, 4097, 65535, 65536, 65537, mib - 1, mib, mib + 1, 5 * mib]
        {
            let random = self.rng.bytes(size);
            self.file(format!("sizes/random-{size}").as_bytes(), &random)?;
            let text = self.rng.text(size);
            self.file(format!("sizes/text-{size}").as_bytes(), &text)?;
        }
        let twice = self.rng.bytes(200_000);
        self.file(b"sizes/same-content-1", &twice)?;
        self.file(b"sizes/same-content-2", &twice)?;
        // All zero and allocated: equal to a hole, and no hole.
        self.file(b"sizes/zero-blocks", &vec![0; 256 * 1024])
    }

    fn names(&mut self) -> io::Result<()> {
        self.dir(b"names")?;
        let longest = vec![b'L'; 255];
        let longest_bytes = vec![0xe9; 255];
        let names: [&[u8]; 28] = [
            b"caf\xe9-latin1",
            b"\xff\xfe\xfd",
            b"new\nline",
            b"tab\there",
            b"trailing ",
            b" leading",
            b"-rf",
            b"--delete",
            b"quote'single",
            b"quote\"double",
            b"back\\slash",
            b"bell\x07",
            b"esc\x1b[2J",
            b"del\x7f",
            b"star*",
            b"question?",
            b"[brackets]",
            b"$(touch x)",
            b"`x`",
            b"semi;colon&",
            b"...",
            b"..a",
            b"#comment",
            b"UPPER",
            b"upper",
            "nfc-\u{e9}".as_bytes(),
            "nfd-e\u{301}".as_bytes(),
            "rtl-\u{202e}txt.exe".as_bytes(),
        ];
        for name in names.into_iter().chain([&longest[..], &longest_bytes[..], b"\\#012", b"~"]) {
            self.file(&joined(b"names", name), name)?;
        }
        for name in [&b"dir\nwith\xffodd "[..], b"-d", &vec![b'D'; 255]] {
            let dir = joined(b"names", name);
            self.dir(&dir)?;
            self.file(&joined(&dir, name), b"below")?;
        }
        Ok(())
    }

    fn modes(&mut self) -> io::Result<()> {
        self.dir(b"modes")?;
        let readable = [
            0o400, 0o444, 0o555, 0o600, 0o640, 0o644, 0o666, 0o755, 0o777, 0o4755, 0o2755, 0o6711,
            0o1644,
        ];
        let unreadable: &[u32] =
            if self.options.privileged { &[0o000, 0o200, 0o111, 0o4111] } else { &[] };
        for &mode in readable.iter().chain(unreadable) {
            let path = format!("modes/file-{mode:04o}").into_bytes();
            self.file_by(&path, mode, |file| file.write_all_at(b"content of a mode", 0))?;
        }
        let passable = [0o500, 0o555, 0o700, 0o750, 0o777, 0o1777, 0o2775, 0o3770];
        let closed: &[u32] = if self.options.privileged { &[0o000, 0o333, 0o444] } else { &[] };
        for &mode in passable.iter().chain(closed) {
            let dir = format!("modes/dir-{mode:04o}").into_bytes();
            self.dir_with(&dir, Some(mode))?;
            self.file(&joined(&dir, b"inside"), b"inside")?;
        }
        Ok(())
    }

    fn owners(&mut self) -> io::Result<()> {
        if !self.options.privileged {
            return Ok(());
        }
        self.dir(b"owners")?;
        for (uid, gid) in [(0, 1001), (1001, 0), (1001, 1002), (123_456, 7), (3_000_000_000, 99)] {
            let stem = format!("owners/{uid}-{gid}");
            let of = |what: &str| format!("{stem}-{what}").into_bytes();
            self.file(&of("file"), b"owned")?;
            self.dir(&of("dir"))?;
            self.symlink(&of("symlink"), b"nowhere")?;
            self.node(&of("fifo"), Kind::Fifo, 0)?;
            // chown clears setuid and capabilities, so they come after it.
            self.file(&of("setuid"), b"setuid")?;
            for what in ["file", "dir", "symlink", "fifo", "setuid"] {
                self.tree.chown(&of(what), uid, gid)?;
            }
            self.tree.chmod(&of("setuid"), 0o6755)?;
        }
        Ok(())
    }

    fn acls(&mut self) -> io::Result<()> {
        self.dir(b"acl")?;
        let access = b"system.posix_acl_access";
        let default = b"system.posix_acl_default";
        self.file(b"acl/file", b"with an acl")?;
        self.file(b"acl/masked", b"the mask takes rights away")?;
        self.dir_with(b"acl/dir", None)?;
        self.dir_with(b"acl/default-only", None)?;
        for (path, key, acl) in [
            (&b"acl/file"[..], &access[..], posix_acl(1001, 6, 7)),
            (b"acl/masked", access, posix_acl(2002, 7, 4)),
            (b"acl/dir", access, posix_acl(1001, 7, 7)),
            (b"acl/dir", default, posix_acl(1003, 5, 5)),
            (b"acl/default-only", default, posix_acl(1004, 7, 7)),
        ] {
            let result = self.tree.set_xattr(path, key, &acl);
            self.attempt(path, result);
        }
        // What inherits a default ACL.
        self.file_by(b"acl/dir/inherits", 0o660, |f| f.write_all_at(b"x", 0))?;
        self.dir_with(b"acl/default-only/inherits", None)
    }

    fn xattrs(&mut self) -> io::Result<()> {
        self.dir(b"xattr")?;
        for name in ["file", "zero", "large", "many", "binary", "trusted", "capability"] {
            self.file(format!("xattr/{name}").as_bytes(), name.as_bytes())?;
        }
        self.dir(b"xattr/dir")?;
        let mut sets: Vec<(&[u8], Vec<u8>, Vec<u8>)> = vec![
            (b"xattr/file", b"user.comment".to_vec(), b"plain".to_vec()),
            (b"xattr/zero", b"user.zero".to_vec(), Vec::new()),
            (b"xattr/binary", b"user.\xff\xfe\n".to_vec(), vec![0, 1, 0xff, b'\n', 0]),
            (b"xattr/binary", [&b"user."[..], &[b'n'; 250]].concat(), b"longest name".to_vec()),
            (b"xattr/dir", b"user.dir".to_vec(), b"of a directory".to_vec()),
        ];
        for i in 0..20 {
            sets.push((b"xattr/many", format!("user.n{i:02}").into_bytes(), vec![i; 10]));
        }
        if self.options.privileged {
            self.symlink(b"xattr/trusted-symlink", b"file")?;
            self.node(b"xattr/trusted-fifo", Kind::Fifo, 0)?;
            for path in [&b"xattr/trusted"[..], b"xattr/dir", b"xattr/trusted-fifo"] {
                sets.push((path, b"trusted.farshore".to_vec(), b"trusted value".to_vec()));
            }
            sets.push((b"xattr/trusted-symlink", b"trusted.link".to_vec(), b"x".to_vec()));
            sets.push((b"xattr/capability", b"security.capability".to_vec(), file_capability()));
        }
        for (path, key, value) in sets {
            let result = self.tree.set_xattr(path, &key, &value);
            self.attempt(path, result);
        }
        // As large as the file system takes.
        let mut result = Ok(());
        for len in [64 * 1024, 60_000, 16_000, 3_800, 2_000] {
            let value = self.rng.bytes(len);
            result = self.tree.set_xattr(b"xattr/large", b"user.large", &value);
            if result.is_ok() {
                break;
            }
        }
        self.attempt(b"xattr/large", result);
        Ok(())
    }

    fn links(&mut self, root: &Path) -> io::Result<()> {
        for dir in [&b"links"[..], b"links/a", b"links/b", b"links/b/c"] {
            self.dir(dir)?;
        }
        let content = self.rng.bytes(10_000);
        self.file(b"links/b/first-made", &content)?;
        self.symlink(b"links/b/symlink", b"first-made")?;
        self.node(b"links/b/fifo", Kind::Fifo, 0)?;
        self.file(b"links/b/empty", b"")?;
        for (from, to) in [
            (&b"links/b/first-made"[..], &b"links/a/same-inode"[..]),
            (b"links/b/first-made", b"links/b/c/third"),
            (b"links/b/first-made", b"links/zz-in-parent"),
            (b"links/b/symlink", b"links/a/symlink-again"),
            (b"links/b/fifo", b"links/b/c/fifo-again"),
            (b"links/b/empty", b"links/a/empty-again"),
        ] {
            let result = self.tree.link(from, to);
            if result.is_ok() {
                let kind = self.tree.facts(to)?.kind;
                self.note(to, kind);
            }
            self.attempt(to, result);
        }
        // Equal in all but the inode.
        self.file(b"links/a/equal-1", &content)?;
        self.file(b"links/a/equal-2", &content)?;
        if self.options.outside_link {
            self.file(b"links/also-outside", b"has a name outside of the tree")?;
            let mut beside: OsString = root.as_os_str().to_owned();
            beside.push(".outside");
            let beside = PathBuf::from(beside);
            std::fs::create_dir_all(&beside)?;
            let result = std::fs::hard_link(root.join("links/also-outside"), beside.join("name"));
            self.attempt(b"links/also-outside", result);
            self.manifest.outside = Some(beside);
        }
        Ok(())
    }

    fn symlinks(&mut self) -> io::Result<()> {
        self.dir(b"symlinks")?;
        let mut longest = b"very/long/".repeat(410);
        longest.truncate(4095);
        for (name, target) in [
            (&b"relative"[..], &b"../sizes/text-1"[..]),
            (b"to-directory", b"../sizes"),
            (b"dangling", b"not/there"),
            (b"absolute", b"/etc/passwd"),
            (b"self", b"self"),
            (b"up", b"../../../../.."),
            (b"root", b"/"),
            (b"newline", b"a\nb"),
            (b"not-utf8", b"\xff\xfe/caf\xe9"),
            (b"slashes", b"..//sizes///text-1/"),
            (b"spaces", b" a b "),
            (b"arrow", b"a -> b"),
            (b"longest", &longest),
        ] {
            let path = joined(b"symlinks", name);
            let result = self.symlink(&path, target);
            self.attempt(&path, result);
        }
        self.symlink(b"symlinks/old", b"old")?;
        self.tree.set_mtime(b"symlinks/old", Time { seconds: -86_400, nanos: 7 })
    }

    fn sparse(&mut self) -> io::Result<()> {
        self.dir(b"sparse")?;
        let mib = 1u64 << 20;
        // Name, size, and where data lies: offset and length.
        type Shape<'a> = (&'a str, u64, &'a [(u64, usize)]);
        let shapes: [Shape<'_>; 9] = [
            ("all-hole", 8 * mib, &[]),
            ("hole-of-one-byte", 1, &[]),
            ("leading", 4 * mib, &[(3 * mib, 1 << 20)]),
            ("trailing", 4 * mib, &[(0, 1 << 20)]),
            ("inner", 6 * mib, &[(0, 4096), (5 * mib, 4096)]),
            ("odd", 3 * mib + 777, &[(12_345, 999), (mib + 1, 3), (3 * mib + 776, 1)]),
            ("comb", 4 * mib, &[(0, 4096), (mib, 4096), (2 * mib, 4096), (3 * mib, 4096)]),
            ("small-holes", 64 * 1024, &[(0, 4096), (8192, 4096), (40_960, 4096)]),
            ("far-end", 64 * mib, &[(63 * mib + 5, 10)]),
        ];
        for (name, size, data) in shapes {
            let mut rng = self.rng.clone();
            self.rng.next_u64();
            self.file_by(format!("sparse/{name}").as_bytes(), 0o644, |file| {
                file.set_len(size)?;
                data.iter().try_for_each(|&(at, len)| file.write_all_at(&rng.bytes(len), at))
            })?;
        }
        if self.options.huge_sparse {
            for (path, tib) in [(&b"sparse/17-tib"[..], 17u64), (b"sparse/15-tib", 15)] {
                let result = self.file_by(path, 0o644, |file| {
                    file.set_len(tib << 40)?;
                    file.write_all_at(b"near the end", (tib << 40) - 4096)
                });
                if result.is_err() {
                    self.tree.unlink(path)?;
                }
                self.attempt(path, result);
            }
        }
        Ok(())
    }

    fn times(&mut self) -> io::Result<()> {
        self.dir(b"times")?;
        for (name, seconds, nanos) in [
            ("1902", -2_145_916_799, 1),
            ("1960", -315_619_200, 123_456_789),
            ("1969-half-a-second-before", -1, 500_000_000),
            ("1970", 0, 0),
            ("1970-one-nanosecond", 0, 1),
            ("2001-last-nanosecond", 1_000_000_000, 999_999_999),
            ("2038", 1 << 31, 0),
            ("2100", 4_102_444_800, 987_654_321),
            ("2400-far-future", 13_569_465_600, 5),
        ] {
            let time = Time { seconds, nanos };
            let of = |what: &str| format!("times/{name}-{what}").into_bytes();
            self.file(&of("file"), name.as_bytes())?;
            self.tree.set_mtime(&of("file"), time)?;
            self.symlink(&of("symlink"), name.as_bytes())?;
            self.tree.set_mtime(&of("symlink"), time)?;
            self.dir(&of("dir"))?;
            self.file(&joined(&of("dir"), b"newer"), b"newer than its directory")?;
            if let Some(last) = self.directories.last_mut() {
                last.2 = time;
            }
        }
        Ok(())
    }

    fn specials(&mut self) -> io::Result<()> {
        self.dir(b"special")?;
        self.node(b"special/fifo", Kind::Fifo, 0)?;
        self.node(b"special/socket", Kind::Socket, 0)?;
        if self.options.privileged {
            for (name, kind, major, minor) in [
                (&b"special/char"[..], Kind::CharDevice, 1, 3),
                (b"special/char-large", Kind::CharDevice, 300, 70_000),
                (b"special/block", Kind::BlockDevice, 7, 200),
            ] {
                let result = self.node(name, kind, rustix::fs::makedev(major, minor));
                self.attempt(name, result);
            }
        }
        if self.options.immutable {
            self.file(b"special/immutable", b"immutable")?;
            let result = self.tree.set_immutable(b"special/immutable", true);
            self.attempt(b"special/immutable", result);
        }
        Ok(())
    }

    fn empty(&mut self) -> io::Result<()> {
        for dir in [&b"empty"[..], b"empty/dir", b"empty/nested", b"empty/nested/in"] {
            self.dir(dir)?;
        }
        self.file(b"empty/file", b"")
    }

    fn wide(&mut self) -> io::Result<()> {
        if self.options.wide_count == 0 {
            return Ok(());
        }
        self.dir(b"wide")?;
        let dir = self.tree.dir(b"wide")?;
        let tree = std::mem::replace(&mut self.tree, Tree::of(dir));
        for i in 0..self.options.wide_count {
            let content = if i % 10 == 0 { self.rng.text(64) } else { Vec::new() };
            let name = format!("entry-{i:07}");
            drop(self.tree.create(name.as_bytes(), &content)?);
            self.set_time(name.as_bytes())?;
        }
        self.manifest.count += u64::from(self.options.wide_count);
        self.tree = tree;
        Ok(())
    }

    fn deep(&mut self) -> io::Result<()> {
        if self.options.deep_levels == 0 {
            return Ok(());
        }
        self.dir(b"deep")?;
        let mut path = b"deep".to_vec();
        for level in 0..self.options.deep_levels {
            let mut name = format!("{level:04}-").into_bytes();
            name.resize(self.options.deep_name_len.clamp(5, 255), b'd');
            path = joined(&path, &name);
            self.dir(&path)?;
            if level % 10 == 9 {
                self.file(&joined(&path, b"on the way"), b"on the way")?;
            }
        }
        self.file(&joined(&path, b"at the end"), b"at the end")?;
        self.symlink(&joined(&path, b"link at the end"), b"../..")?;
        self.dir(&joined(&path, b"empty at the end"))
    }

    fn finish(mut self) -> io::Result<Manifest> {
        let root_time = self.time();
        for (path, mode, time) in self.directories.iter().rev() {
            if let Some(mode) = mode {
                self.tree.chmod(path, *mode)?;
            }
            self.tree.set_mtime(path, *time)?;
        }
        self.tree.set_mtime(b"", root_time)?;
        Ok(self.manifest)
    }
}

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", shown(&self.path), self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rsync::note_no_rsync;
    use crate::{compare, has_rsync, remove_tree, rsync_copy, rsync_differences, without_holes};

    #[test]
    fn what_rsync_copies_is_equal_by_both_oracles() {
        if !has_rsync() {
            return note_no_rsync();
        }
        let dir = tempfile::tempdir().expect("a directory");
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let manifest = TortureTree::build(&a, 1, &Options::for_rsync()).expect("a tree");
        assert!(manifest.skipped.is_empty(), "{:?}", manifest.skipped);
        rsync_copy(&a, &b).expect("a copy");
        let found = compare(&a, &b, &[]);
        assert!(found.is_empty(), "{found:#?}");
        assert_eq!(rsync_differences(&a, &b).expect("a comparison"), Vec::<String>::new());
        remove_tree(&a).expect("removed");
        remove_tree(&b).expect("removed");
        assert!(!a.exists() && !b.exists());
    }

    #[test]
    fn one_seed_makes_one_tree_and_everything_can_be_compared_and_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let (a, b, c) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("c"));
        let options = Options { wide_count: 200, ..Options::default() };
        let manifest = TortureTree::build(&a, 7, &options).expect("a tree");
        // No file system of ours but btrfs, xfs and tmpfs takes the larger of the two.
        assert!(manifest.skipped.len() <= 2, "{:?}", manifest.skipped);
        TortureTree::build(&b, 7, &options).expect("a tree");
        TortureTree::build(&c, 8, &options).expect("a tree");
        let found = compare(&a, &b, &[]);
        assert!(found.is_empty(), "{found:#?}");
        assert!(without_holes(compare(&a, &c, &[])).len() > 100);
        let deepest = manifest.made.iter().map(|m| m.path.len()).max().unwrap_or(0);
        assert!(deepest > 6_000, "{deepest}");
        let walked = Tree::open(&a).expect("a tree").walk().expect("a walk");
        assert_eq!(walked.len() as u64, manifest.count);
        for root in [&a, &b, &c] {
            remove_tree(root).expect("removed");
            assert!(!root.exists());
        }
    }

    #[test]
    fn a_tree_a_thousand_levels_deep_and_immutable_is_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("a");
        let options = Options {
            deep_levels: 1_000,
            deep_name_len: 100,
            immutable: Options::default().privileged,
            ..Options::small()
        };
        let manifest = TortureTree::build(&root, 3, &options).expect("a tree");
        assert!(manifest.skipped.len() <= 1, "{:?}", manifest.skipped);
        remove_tree(&root).expect("removed");
        assert!(!root.exists());
        remove_tree(&root).expect("nothing to remove");
    }
}
