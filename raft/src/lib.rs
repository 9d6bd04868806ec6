//! henge-raft
