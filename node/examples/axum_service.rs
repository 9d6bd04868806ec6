//! A web service with its store inside: axum and the engine on one thread, no hop between them.
//! `cargo run --example axum_service -- 127.0.0.1:7003`, then
//! `curl -X PUT -d hello http://127.0.0.1:7003/kv/greeting; curl http://127.0.0.1:7003/kv/greeting`
//!
//! axum wants handlers that could move between threads, so they hold the engine's `Send` handle; on a
//! current-thread runtime they never do. A service with more threads opens the engine with
//! [`Engine::builder`]`.open()` instead: the handlers stay the same.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use henge::{Engine, Failure, Unavailable};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:7003".to_owned());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (db, driver) = Engine::builder("axum.henge").open_local()?;
        let driver = tokio::task::spawn_local(driver);
        let service = Router::new()
            .route("/kv/{key}", get(read).put(write).delete(remove))
            .with_state(db.remote());
        let listener = tokio::net::TcpListener::bind(&address).await?;
        println!("listening on http://{address}");
        axum::serve(listener, service)
            .with_graceful_shutdown(async {
                // An error here means that there are no signals: then it runs until it is killed.
                let _ = tokio::signal::ctrl_c().await;
            })
            .await?;
        db.stop().await;
        driver.await?;
        Ok(())
    })
}

async fn read(State(db): State<Engine>, Path(key): Path<String>) -> Result<Response, Refusal> {
    Ok(match db.get(key).await? {
        Some(found) => found.value.into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    })
}

async fn write(
    State(db): State<Engine>,
    Path(key): Path<String>,
    value: Bytes,
) -> Result<String, Refusal> {
    let written = db.put(key, value).await?;
    Ok(format!("revision {}\n", written.header.revision))
}

async fn remove(State(db): State<Engine>, Path(key): Path<String>) -> Result<String, Refusal> {
    let gone = db.delete(key).await?;
    Ok(format!("{} deleted\n", gone.body.deleted))
}

/// A failure as HTTP: whose fault it is, and whether trying again is safe.
struct Refusal(StatusCode, String);

/// All operations fail alike but for what the caller can do wrong, so one conversion serves them.
impl<Mistake: std::fmt::Display> From<Failure<Mistake>> for Refusal {
    fn from(failure: Failure<Mistake>) -> Self {
        let status = match &failure {
            Failure::Caller(_) => StatusCode::BAD_REQUEST,
            Failure::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
            Failure::Unavailable(Unavailable::TooManyRequests) => StatusCode::TOO_MANY_REQUESTS,
            // It may have happened: only a request that is harmless twice may be repeated.
            Failure::Unknown(_) | Failure::Poisoned(_) => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Refusal(status, format!("{failure}\n"))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}
