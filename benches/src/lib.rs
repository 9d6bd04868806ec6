//! henge-benches
