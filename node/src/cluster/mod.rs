//! What an engine knows of its cluster, and how its cores reach the other members.
//!
//! `members` is the list in the data directory, `mesh` joins the transport to the cores, `demux` finds the
//! core that a frame is for.
//! Must never know: what frames say, how an engine is opened.

pub(crate) mod demux;
pub mod members;
pub(crate) mod mesh;
