//! The command line of the `henge` binary.
