//! How the parts of a store name what they keep for each other: a key by its slot, a version by its place.
//!
//! Promises: nothing here depends on who keeps it. Must never know: keys, versions.

/// Names a key: its slot. 31 bits: the index keeps a flag in the top bit.
pub(crate) type KeyId = u32;

/// Bytes of a place, where a version lies.
pub(crate) const LOC_BYTES: usize = 5;
