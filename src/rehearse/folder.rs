//! The folder of a rehearsal, `.farshore/rehearsal/<id>`: whose it is, and who removes it.
//!
//! Guarantees: a folder belongs to whoever has the lock of the file `lock` in it, which the kernel takes back when
//! that process ends, however it does. A folder that nobody has is removed by the next rehearsal of the share, by
//! the daemon within a second where it runs, and when it starts; one that is kept on purpose is not. Nothing else
//! below `.farshore` is touched.

use std::io::{self, ErrorKind};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use farshore_engine::OWN_FOLDER;
use farshore_engine::io::uring::UringStorage;
use farshore_engine::io::{Object, Storage};
use farshore_engine::own_folder::{ensure_directory, remove_tree};

use crate::state::random_id;

type Directory = <UringStorage as Storage>::Directory;
type File = <UringStorage as Storage>::File;

/// The folder of them all, in `.farshore`.
pub const FOLDER: &str = "rehearsal";
/// What a folder that is kept ends with.
const KEPT: &str = ".kept";
const LOCK: &[u8] = b"lock";
/// Times that a folder is made, when others remove it before it is locked.
const TRIES: usize = 16;
/// How often the daemon looks whether a folder is somebody's.
const LOOK: Duration = Duration::from_millis(250);
/// How long a daemon that still works in a folder is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A folder that is ours.
#[derive(Debug)]
pub struct Taken {
    /// Its name.
    pub id: String,
    /// It, opened.
    pub folder: Directory,
    _lock: File,
}

fn all(storage: &UringStorage) -> io::Result<Directory> {
    let own = storage.open_directory(storage.root(), OWN_FOLDER)?;
    storage.open_directory(&own, FOLDER.as_bytes())
}

/// Makes a folder, and has it.
///
/// # Errors
/// The file system's own; Unsupported when it has no locks.
pub fn take(storage: &UringStorage) -> io::Result<Taken> {
    let own = storage.open_directory(storage.root(), OWN_FOLDER)?;
    for _ in 0..TRIES {
        let id = random_id().map_err(io::Error::other)?;
        let id: String = id.0[..6].iter().map(|b| format!("{b:02x}")).collect();
        match take_as(storage, &own, id) {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            taken => return taken,
        }
    }
    Err(io::Error::new(ErrorKind::ResourceBusy, "others remove it again and again"))
}

fn take_as(storage: &UringStorage, own: &Directory, id: String) -> io::Result<Taken> {
    let all = ensure_directory(storage, own, FOLDER.as_bytes())?;
    storage.make_directory(&all, id.as_bytes())?;
    let folder = storage.open_directory(&all, id.as_bytes())?;
    let lock = storage.create_file(&folder, LOCK)?;
    if !storage.try_lock(&lock)? {
        // Somebody who removes it.
        return Err(ErrorKind::NotFound.into());
    }
    let ours = storage.stat(Object::File(&lock))?.inode;
    let there = storage.open_directory(&all, id.as_bytes())?;
    if storage.stat(Object::Named(&there, LOCK))?.inode != ours {
        return Err(ErrorKind::NotFound.into());
    }
    if !is_taken(storage, &folder) {
        return Err(io::Error::new(ErrorKind::Unsupported, "the file system has no locks"));
    }
    Ok(Taken { id, folder, _lock: lock })
}

/// Whether somebody has a folder.
#[must_use]
pub fn is_taken(storage: &UringStorage, folder: &Directory) -> bool {
    let lock = storage.open_file_writable(folder, LOCK);
    lock.and_then(|lock| storage.try_lock(&lock)).is_ok_and(|got| !got)
}

/// Whether this can be the name of one.
#[must_use]
pub fn is_id(id: &str) -> bool {
    (1..=32).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Opens the folder of somebody else.
///
/// # Errors
/// The file system's own.
pub fn find(storage: &UringStorage, id: &str) -> io::Result<Directory> {
    storage.open_directory(&all(storage)?, id.as_bytes())
}

/// Gives up a folder and removes it; a daemon that works in it stops that within moments.
///
/// # Errors
/// The file system's own, when it does not go.
pub fn remove(storage: &UringStorage, taken: Taken) -> io::Result<()> {
    let Taken { id, folder, _lock: lock } = taken;
    drop((lock, folder));
    gone(storage, &id, Instant::now() + PATIENCE)
}

fn gone(storage: &UringStorage, id: &str, until: Instant) -> io::Result<()> {
    let all = match all(storage) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        all => all?,
    };
    loop {
        let removed = remove_tree(storage, &all, id.as_bytes());
        match storage.stat(Object::Named(&all, id.as_bytes())) {
            Err(e) if e.kind() == ErrorKind::NotFound => break,
            // Somebody else removes it too, or still makes something in it.
            _ if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            _ => return removed.and(Err(ErrorKind::DirectoryNotEmpty.into())),
        }
    }
    // The last one takes the folder of them all with it.
    if let Ok(own) = storage.open_directory(storage.root(), OWN_FOLDER) {
        drop(storage.remove_directory(&own, FOLDER.as_bytes()));
    }
    Ok(())
}

/// Keeps a folder beyond its rehearsal; its name from now on.
///
/// # Errors
/// The file system's own.
pub fn keep(storage: &UringStorage, taken: &Taken) -> io::Result<String> {
    let all = all(storage)?;
    let name = format!("{}{KEPT}", taken.id);
    storage.rename(&all, taken.id.as_bytes(), &all, name.as_bytes())?;
    Ok(name)
}

/// Removes a folder that was kept.
///
/// # Errors
/// NotFound when there is none; the file system's own.
pub fn discard(storage: &UringStorage, name: &str) -> io::Result<()> {
    let id = name.strip_suffix(KEPT).unwrap_or(name);
    if !is_id(id) {
        return Err(ErrorKind::NotFound.into());
    }
    let name = format!("{id}{KEPT}");
    storage.stat(Object::Named(&all(storage)?, name.as_bytes()))?;
    gone(storage, &name, Instant::now())
}

/// Removes the folders that nobody has any more; how many there were.
///
/// # Errors
/// The file system's own.
pub fn sweep(storage: &UringStorage) -> io::Result<usize> {
    let all = match all(storage) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(0),
        all => all?,
    };
    let mut names = Vec::new();
    storage.list(&all, &mut |l| names.extend(std::str::from_utf8(l.name).map(str::to_owned)))?;
    let mut swept = 0;
    for name in names.iter().filter(|name| is_id(name)) {
        let Ok(folder) = storage.open_directory(&all, name.as_bytes()) else { continue };
        if !is_taken(storage, &folder) {
            gone(storage, name, Instant::now())?;
            swept += 1;
        }
    }
    Ok(swept)
}

/// Removes the folder `id` as soon as nobody has it, for as long as `storage` is open elsewhere.
pub fn sweep_when_left(storage: &Arc<UringStorage>, id: &str) {
    let (storage, id): (Weak<_>, _) = (Arc::downgrade(storage), id.to_owned());
    let watch = move || {
        loop {
            std::thread::sleep(LOOK);
            let Some(storage) = storage.upgrade() else { return };
            match find(&storage, &id) {
                Err(_) => return,
                Ok(folder) if !is_taken(&storage, &folder) => {
                    // What is still being made in it goes the next time.
                    if gone(&storage, &id, Instant::now()).is_ok() {
                        return;
                    }
                }
                Ok(_) => {}
            }
        }
    };
    // Without it the next start or rehearsal removes the folder.
    drop(std::thread::Builder::new().name("rehearsal".into()).spawn(watch));
}
