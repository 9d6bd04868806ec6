//! Who asks: the one place where a call's metadata says so.
//!
//! Promises: nothing is asked of the backend but in the name of whoever the metadata of the call names; a
//! service that has only this cannot forget it. Must never know: what is asked.

use henge_api::{Backend, Caller, Vitals};
use tonic::metadata::MetadataMap;

/// Reads from a call's metadata who makes it.
pub type Who = fn(&MetadataMap) -> Caller;

/// There are no users yet, so a token (`token`, or `authorization`) is not looked at.
pub fn nobody(_: &MetadataMap) -> Caller {
    Caller::nobody()
}

/// A backend that is asked in somebody's name only.
#[derive(Clone, Debug)]
pub struct Asked<B> {
    backend: B,
    who: Who,
}

impl<B: Backend> Asked<B> {
    /// `who` says in whose.
    pub fn new(backend: B, who: Who) -> Asked<B> {
        Asked { backend, who }
    }

    /// Who makes the call with this metadata. Asked before its body is read: metadata may be a mebibyte, and
    /// a call may last.
    pub fn caller(&self, metadata: &MetadataMap) -> Caller {
        (self.who)(metadata)
    }

    /// The backend for a caller.
    pub fn by(&self, caller: Caller) -> B {
        self.backend.by(caller)
    }

    /// The backend for the caller whose metadata this is.
    pub fn of(&self, metadata: &MetadataMap) -> B {
        self.by(self.caller(metadata))
    }

    /// How the member is, whoever asks.
    pub fn vitals(&self) -> Vitals {
        self.backend.vitals()
    }
}
