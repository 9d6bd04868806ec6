//! henge-mvcc
