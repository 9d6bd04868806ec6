// Included by the documentation's examples: an engine on a directory that goes away.

type Outcome = Result<(), Box<dyn std::error::Error>>;

#[allow(dead_code, reason = "each example uses one of these")]
fn on_scratch(example: impl AsyncFnOnce(henge::Engine) -> Outcome) -> Outcome {
    with_scratch(|engine| engine.blocking().wait(example(engine)))
}

#[allow(dead_code, reason = "each example uses one of these")]
fn with_scratch(example: impl FnOnce(henge::Engine) -> Outcome) -> Outcome {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("henge-doc-{}-{number}", std::process::id()));
    let wal = henge::wal::Options {
        segment_bytes: 1 << 20,
        ..Default::default()
    };
    let outcome = henge::Engine::builder(&dir).wal(wal).open()?;
    let outcome = example(outcome);
    std::fs::remove_dir_all(&dir)?;
    outcome
}

#[allow(dead_code, reason = "each example uses one of these")]
fn on_local(example: impl AsyncFnOnce(henge::Local) -> Outcome) -> Outcome {
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("henge-doc-local-{}-{number}", std::process::id()));
    let wal = henge::wal::Options {
        segment_bytes: 1 << 20,
        ..Default::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = tokio::task::LocalSet::new().block_on(&runtime, async {
        let (db, driver) = henge::Engine::builder(&dir).wal(wal).open_local()?;
        let driver = tokio::task::spawn_local(driver);
        let outcome = example(db.clone()).await;
        db.stop().await;
        driver.await?;
        outcome
    });
    std::fs::remove_dir_all(&dir)?;
    outcome
}
