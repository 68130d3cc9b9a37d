//! Plain system calls.
