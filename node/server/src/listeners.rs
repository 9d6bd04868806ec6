//! The sockets that clients connect to, bound before anything else is touched.
//!
//! Promises: a port that is taken for a moment, as by a process that was just killed, is waited for; a unix
//! socket that nobody listens on any more is replaced, and nothing else ever is; it is gone after the end.
//! Must never know: the engine.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use henge::api::Backend;
use henge_edge::Edge;
use henge_edge::door::LocalExecutor;
use henge_edge::door::listen::Serves;

use super::values::ListenOn;

/// Attempts to get a port, and the pause between two: about a second in all.
const LISTEN_TRIES: u32 = 10;
const LISTEN_PAUSE: Duration = Duration::from_millis(100);
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4_096;

/// A bound socket and what is served on it.
#[derive(Debug)]
pub(super) struct Listener {
    socket: Socket,
    serves: Serves,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, Gone),
}

/// Removes the socket's file with its listener.
#[derive(Debug)]
struct Gone(PathBuf);

impl Drop for Gone {
    fn drop(&mut self) {
        // If it is gone already, all the better.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Binds everything a server listens on for clients: `(where, what is served there)`.
pub(super) fn bind(places: &[(ListenOn, Serves)]) -> Result<Vec<Listener>, String> {
    places
        .iter()
        .map(|(place, serves)| {
            let socket = match place {
                ListenOn::Tcp(address) => Socket::Tcp(patiently(*address)?),
                ListenOn::Unix(path) => unix(path)?,
            };
            Ok(Listener {
                socket,
                serves: *serves,
            })
        })
        .collect()
}

impl Listener {
    /// Listens on a port that was only taken so far, with room for a storm of clients. If another process
    /// took it at the same time, the first that listens has it.
    pub(super) fn open(&self) -> Result<(), String> {
        let Socket::Tcp(socket) = &self.socket else {
            return Ok(());
        };
        let listening = socket2::SockRef::from(socket).listen(BACKLOG);
        listening.map_err(|error| {
            let address = socket.local_addr().map(|address| address.to_string());
            no_port(&address.unwrap_or_default(), &error)
        })
    }

    /// Serves on the current thread's tasks until the edge's shutdown, and until its connections are done.
    pub(super) async fn serve<B: Backend>(self, edge: Edge<B>) {
        let edge = edge.serving(self.serves);
        // `serve` returns no errors today; an accept that fails is retried.
        let served = match self.socket {
            Socket::Tcp(socket) => match tokio::net::TcpListener::from_std(socket) {
                Ok(socket) => henge_edge::door::serve(socket, edge, LocalExecutor).await,
                Err(error) => Err(error),
            },
            Socket::Unix(socket, _gone) => match tokio::net::UnixListener::from_std(socket) {
                Ok(socket) => henge_edge::door::serve(socket, edge, LocalExecutor).await,
                Err(error) => Err(error),
            },
        };
        if let Err(error) = served {
            tracing::error!(%error, "a listener cannot be used");
        }
    }
}

/// A port can stay taken for a moment after its process was killed, while the kernel takes its memory
/// back: as with the directory's lock, that is waited for.
#[expect(clippy::disallowed_methods, reason = "before the engine starts")]
fn patiently(address: SocketAddr) -> Result<TcpListener, String> {
    let mut listening = tcp(address);
    for _ in 0..LISTEN_TRIES {
        if listening.is_ok() {
            break;
        }
        std::thread::sleep(LISTEN_PAUSE);
        listening = tcp(address);
    }
    listening
}

/// Takes a port. Who calls is refused until it is [opened](Listener::open), and tries another member at once.
fn tcp(address: SocketAddr) -> Result<TcpListener, String> {
    let failed = |error: io::Error| no_port(&address.to_string(), &error);
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).map_err(failed)?;
    socket.set_reuse_address(true).map_err(failed)?;
    socket.bind(&address.into()).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    Ok(socket.into())
}

fn no_port(address: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!(
                "client address {address} is in use by another process; choose another or stop it"
            )
        }
        _ => format!("cannot listen for clients on {address}: {error}"),
    }
}

fn unix(path: &Path) -> Result<Socket, String> {
    let failed =
        |error: io::Error| format!("cannot listen for clients on {}: {error}", path.display());
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(format!(
                "cannot listen for clients on {}: there is something else, which stays; choose another \
                 path or move it away",
                path.display()
            ));
        }
        // A process that was killed leaves its socket behind.
        Ok(_) => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed)?;
            }
            _ => {
                return Err(format!(
                    "client socket {} is in use by another process; choose another or stop it",
                    path.display()
                ));
            }
        },
    }
    let socket = UnixListener::bind(path).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    Ok(Socket::Unix(socket, Gone(path.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unix_socket_replaces_only_a_socket_that_nobody_listens_on() {
        let dir = std::env::temp_dir().join(format!("henge-listeners-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let path = dir.join("s");
        let place = [(ListenOn::Unix(path.clone()), Serves::Both)];
        let first = bind(&place).expect("free");
        assert!(bind(&place).is_err_and(|why| why.contains("in use")));
        drop(first);
        assert!(!path.exists(), "it goes with its listener");
        // As a killed process leaves it.
        drop(UnixListener::bind(&path).expect("free"));
        assert!(path.exists());
        drop(bind(&place).expect("nobody listens"));
        std::fs::write(&path, "precious").expect("a file");
        assert!(bind(&place).is_err_and(|why| why.contains("something else")));
        assert!(path.exists());
        std::fs::remove_dir_all(&dir).expect("tidy");
    }
}
