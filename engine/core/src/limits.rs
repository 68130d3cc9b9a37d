//! Every bound of the values in this crate, beside its reason. Relations are checked when the crate
//! is compiled.

/// Shortest file that is known again under another name by what it is: a mark, a counter or a word is the same in
/// many files.
pub const MOVED_FILE_LEN_MIN: u64 = 16;

/// Longest name of one path component in bytes: NAME_MAX of every file system we serve.
pub const NAME_MAX: usize = 255;

/// Longest path below a share's root in bytes. Far beyond PATH_MAX (4,096), since the engine walks
/// by directory handles; 128 levels of the longest names.
pub const PATH_LEN_MAX: usize = 32 * 1024;

/// Longest symbolic link target in bytes: PATH_MAX less its NUL.
pub const SYMLINK_TARGET_MAX: usize = 4_095;

/// Longest name of an extended attribute in bytes (XATTR_NAME_MAX).
pub const XATTR_NAME_MAX: usize = 255;

/// Longest value of one extended attribute in bytes (XATTR_SIZE_MAX).
pub const XATTR_VALUE_MAX: usize = 64 * 1024;

/// All extended attributes of one entry, names and values, in bytes. XATTR_LIST_MAX bounds the
/// names alone; an entry must fit a frame.
pub const XATTR_TOTAL_MAX: usize = 512 * 1024;

/// Files up to this size are one chunk, one digest, and travel packed with others.
pub const SMALL_FILE_MAX: u64 = 64 * 1024;

/// Largest chunk any chunking produces, in bytes.
pub const CHUNK_LEN_MAX: usize = 4 << 20;

/// Shortest run of zero bytes, aligned to itself, that a recipe records as a zero extent.
pub const ZERO_RUN_MIN: u64 = 64 * 1024;

/// Most extents of one recipe: 16 TiB in chunks of 1 MiB, and half a gigabyte of memory.
pub const RECIPE_EXTENTS_MAX: usize = 1 << 24;

/// Most bytes that the encoding of a chunk in a recipe takes: its length, which is below 2^23 doubled, and its
/// digest. Zeros take fewer.
pub const EXTENT_LEN_MAX: usize = 4 + 32;

/// Largest file, in bytes: what a signed 64-bit offset can address.
pub const FILE_SIZE_MAX: u64 = i64::MAX as u64;

/// Most pieces of one patched chunk: as many as a largest chunk has of 64 bytes. Copies of 16 bytes are
/// worth their place already; a chunk of more pieces than these is sent as it is.
pub const PATCH_PIECES_MAX: usize = CHUNK_LEN_MAX / 64;

/// Payload of one frame before compression, in bytes: one largest chunk or one entry with all its
/// attributes, and room for the rest of its operation.
pub const FRAME_PAYLOAD_MAX: usize = CHUNK_LEN_MAX + 256 * 1024;

#[allow(clippy::cast_possible_truncation)] // both are 64 KiB
const _: () = {
    assert!(CHUNK_LEN_MAX < FRAME_PAYLOAD_MAX);
    assert!(XATTR_TOTAL_MAX + 2 * PATH_LEN_MAX + SYMLINK_TARGET_MAX < FRAME_PAYLOAD_MAX);
    assert!(SMALL_FILE_MAX as usize + XATTR_TOTAL_MAX + 2 * PATH_LEN_MAX < FRAME_PAYLOAD_MAX);
    assert!(ZERO_RUN_MIN as usize <= CHUNK_LEN_MAX);
    assert!(CHUNK_LEN_MAX << 1 < 1 << (4 * 7));
};
