//! henge
pub mod api;
pub mod cli;
pub mod etcd;
pub mod http;
