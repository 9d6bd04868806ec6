//! Where clients come from: TCP, or a unix socket on the same machine; and what they find there.
//!
//! Must never know: HTTP, services. Tested by `tests/flags` with real clients.

use std::future::Future;
use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Something that clients connect to.
pub trait Listen: Send + Sync {
    /// What a connection is.
    type Stream: ClientStream;

    /// The next connection.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// A client's connection.
pub trait ClientStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Sets what small answers need.
    ///
    /// # Errors
    /// What the operating system says: the connection is of no use.
    fn prepare(&self) -> io::Result<()>;
}

impl Listen for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        TcpListener::accept(self).await.map(|(stream, _)| stream)
    }
}

impl ClientStream for TcpStream {
    fn prepare(&self) -> io::Result<()> {
        super::connections::prepare(self)
    }
}

impl Listen for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        UnixListener::accept(self).await.map(|(stream, _)| stream)
    }
}

impl ClientStream for UnixStream {
    fn prepare(&self) -> io::Result<()> {
        Ok(())
    }
}

/// What is served on a listener (etcd's `--listen-client-http-urls` parts the two).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Serves {
    /// gRPC and plain HTTP, told apart by each request.
    #[default]
    Both,
    /// gRPC only.
    Grpc,
    /// Plain HTTP only: health, version, metrics.
    Plain,
}
