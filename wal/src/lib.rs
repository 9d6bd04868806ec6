//! henge-wal
