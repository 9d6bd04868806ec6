//! henge-tests
