//! A service in glommio with its store inside: one executor, its rings, and an engine on it.
//! `cargo run --features glommio --example glommio_service -- 127.0.0.1:7002`, then `nc 127.0.0.1 7002`
//! and lines like `put greeting hello` and `get greeting`.
//!
//! A service with an executor per core opens an engine of its own on each, in a directory of its own.

use futures_lite::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use glommio::net::{TcpListener, TcpStream};
use glommio::{LocalExecutorBuilder, Placement};
use henge::api::Error;
use henge::{Engine, HostKind, Local};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:7002".to_owned());
    // Asked first: an executor cannot be made where io_uring is blocked.
    henge::wal::disk::ring::probe()?;
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(2 << 20)
        .make()?;
    executor.run(async {
        let builder = Engine::builder("glommio.henge").host(HostKind::Glommio);
        let (db, driver) = builder.open_local()?;
        // A task that is dropped is cancelled here: let it run.
        glommio::spawn_local(driver).detach();
        let listener = TcpListener::bind(&address)?;
        println!("listening on {address}");
        loop {
            let stream = listener.accept().await?;
            let db = db.clone();
            glommio::spawn_local(async move {
                if let Err(error) = serve(stream, db).await {
                    eprintln!("a client: {error}");
                }
            })
            .detach();
        }
    })
}

async fn serve(stream: TcpStream, db: Local) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        let answer = answer(&db, &line).await;
        line.clear();
        stream.get_mut().write_all(answer.as_bytes()).await?;
    }
    Ok(())
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
