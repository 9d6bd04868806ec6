//! A service in tokio-uring with its store inside: sockets, log and store on one thread and one ring.
//! `cargo run --example tokio_uring_service -- 127.0.0.1:7001`, then `nc 127.0.0.1 7001` and lines like
//! `put greeting hello` and `get greeting`.

use std::net::SocketAddr;

use henge::api::Error;
use henge::{Engine, HostKind, Local};
use tokio_uring::net::{TcpListener, TcpStream};

/// Longest line a client may send, in bytes.
const LINE_MAX: usize = 64 << 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:7001".to_owned());
    let address: SocketAddr = address.parse()?;
    if let Err(why) = henge::wal::disk::tokio_uring::probe() {
        // The runtime would panic; `--host thread` of the engine's own server runs here.
        return Err(why.into());
    }
    tokio_uring::start(async {
        // The log goes through this runtime's ring. Without `host` it would have one of its own, which is
        // faster on a busy thread (docs/performance.md).
        let builder = Engine::builder("tokio-uring.henge").host(HostKind::TokioUring);
        let (db, driver) = builder.open_local()?;
        tokio_uring::spawn(driver);
        let listener = TcpListener::bind(address)?;
        println!("listening on {address}");
        loop {
            let (stream, from) = listener.accept().await?;
            let db = db.clone();
            tokio_uring::spawn(async move {
                if let Err(error) = serve(stream, db).await {
                    eprintln!("{from}: {error}");
                }
            });
        }
    })
}

async fn serve(stream: TcpStream, db: Local) -> std::io::Result<()> {
    let mut line = Vec::new();
    let mut buffer = vec![0; 4_096];
    loop {
        let (read, returned) = stream.read(buffer).await;
        buffer = returned;
        let read = read?;
        if read == 0 || line.len() > LINE_MAX {
            return Ok(());
        }
        line.extend_from_slice(&buffer[..read]);
        while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            let answer = answer(&db, &String::from_utf8_lossy(&line[..end])).await;
            line.drain(..=end);
            let (written, _) = stream.write_all(answer.into_bytes()).await;
            written?;
        }
    }
}

async fn answer(db: &Local, line: &str) -> String {
    match execute(db, line).await {
        Ok(text) => format!("{text}\n"),
        Err(error) => format!("error: {error}\n"),
    }
}

async fn execute(db: &Local, line: &str) -> Result<String, Error> {
    let mut words = line.trim().splitn(3, ' ');
    Ok(match (words.next(), words.next(), words.next()) {
        (Some("put"), Some(key), Some(value)) => {
            let written = db.put(key, value).await?;
            format!("revision {}", written.header.revision)
        }
        (Some("get"), Some(key), None) => match db.get(key).await? {
            Some(found) => String::from_utf8_lossy(&found.value).into_owned(),
            None => "(nothing)".to_owned(),
        },
        _ => "say: put KEY VALUE, or get KEY".to_owned(),
    })
}
