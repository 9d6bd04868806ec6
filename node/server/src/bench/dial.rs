//! Connections to servers that speak etcd v3.
//!
//! Promises: each server that is used has answered a call before the load begins; one that does not is
//! named, in one line, within the dial timeout. Must never know: the load.

use std::time::Duration;

use henge_edge::etcd::proto::etcdserverpb as pb;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::args::BenchArgs;

/// A server that answered.
#[derive(Clone, Debug)]
pub struct Server {
    /// As it was given.
    pub url: String,
    /// What it calls its version, if it tells.
    pub version: Option<String>,
}

/// How many connections are opened.
pub fn connections(args: &BenchArgs) -> u32 {
    args.conns.unwrap_or(10).min(args.clients)
}

/// Opens the connections in turn over the endpoints, and asks each server who it is.
pub async fn dial(args: &BenchArgs) -> Result<(Vec<Channel>, Vec<Server>), String> {
    let conns = connections(args) as usize;
    let (mut channels, mut servers) = (Vec::with_capacity(conns), Vec::new());
    for (number, url) in args.endpoints.iter().cycle().take(conns).enumerate() {
        let one = async {
            let channel = connect(url, args.dial_timeout).await?;
            if number < args.endpoints.len() {
                let version = version(&channel).await?;
                servers.push(Server {
                    url: url.clone(),
                    version,
                });
            }
            Ok::<_, String>(channel)
        };
        let channel = tokio::time::timeout(args.dial_timeout, one).await;
        let channel = channel
            .map_err(|_| format!("no answer within {:?} (--dial-timeout)", args.dial_timeout))
            .flatten()
            .map_err(|error| format!("cannot use {url}: {error}"))?;
        channels.push(channel);
    }
    Ok((channels, servers))
}

async fn connect(url: &str, within: Duration) -> Result<Channel, String> {
    let url = if url.contains("://") {
        url.to_owned()
    } else {
        format!("http://{url}")
    };
    let endpoint = Endpoint::from_shared(url).map_err(|error| innermost(&error))?;
    let endpoint = endpoint.tcp_nodelay(true).connect_timeout(within);
    endpoint.connect().await.map_err(|error| innermost(&error))
}

/// What a server calls its version; none if it does not let us ask.
async fn version(channel: &Channel) -> Result<Option<String>, String> {
    let mut client = pb::maintenance_client::MaintenanceClient::new(channel.clone());
    match client.status(pb::StatusRequest::default()).await {
        Ok(status) => Ok(Some(status.into_inner().version)),
        Err(status) => match status.code() {
            Code::Unimplemented | Code::PermissionDenied | Code::Unauthenticated => Ok(None),
            // The same questions as an overloaded server would refuse; the load will show it.
            Code::ResourceExhausted => Ok(None),
            _ => Err(describe(&status)),
        },
    }
}

/// What failures are counted by: the code, and what was said or what lies beneath.
pub fn describe(status: &Status) -> String {
    let said = match std::error::Error::source(status) {
        Some(source) => innermost(source),
        None => status.message().to_owned(),
    };
    format!("{:?}: {said}", status.code())
}

/// The cause of causes: what is around it says only that something failed. In one line.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string().replace('\n', " ")
}
