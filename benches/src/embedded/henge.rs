//! Henge: one shard on one core; writers are tasks on one thread that await their put, as a service's
//! requests do.

use std::path::Path;
use std::sync::Arc;

use henge::{Batch, Engine};

use super::Store;
use super::load::{Load, Pair, Rate, Writer};

pub struct Henge;

impl Store for Henge {
    fn name(&self) -> &'static str {
        "henge"
    }

    fn writers(&self) -> &'static [usize] {
        &[16, 256, 1_024, 2_048, 4_096]
    }

    fn load(&self, dir: &Path, load: &Arc<Load>) -> Result<Rate, String> {
        let engine = Engine::builder(dir.join("henge"))
            .open()
            .map_err(|e| e.to_string())?;
        let rate = std::thread::scope(|scope| {
            let tasks = scope.spawn(|| run_tasks(&engine, load));
            let seconds = load.supervise();
            tasks.join().map_err(|_| "the writers' thread died")??;
            Ok::<_, String>(load.rate(seconds))
        })?;
        let db = engine.blocking();
        load.check(|key| match db.get(key) {
            Ok(found) => Ok(found.map(|kv| kv.value.to_vec())),
            Err(error) => Err(error.to_string()),
        })?;
        db.stop();
        Ok(rate)
    }
}

fn run_tasks(engine: &Engine, load: &Arc<Load>) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .map_err(|e| e.to_string())?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let tasks: Vec<_> = load
            .writers()
            .into_iter()
            .map(|writer| tokio::task::spawn_local(write(engine.clone(), Arc::clone(load), writer)))
            .collect();
        for task in tasks {
            task.await.map_err(|e| e.to_string())??;
        }
        Ok(())
    })
}

async fn write(engine: Engine, load: Arc<Load>, mut writer: Writer) -> Result<(), String> {
    while !load.is_over() {
        put(&engine, writer.next()).await?;
        load.acknowledged();
    }
    load.ended(&writer);
    Ok(())
}

async fn put(engine: &Engine, pairs: &[Pair]) -> Result<(), String> {
    if let [pair] = pairs {
        let put = engine.put(pair.key, pair.value).await;
        return put.map(drop).map_err(|e| e.to_string());
    }
    let mut batch = Batch::new();
    for pair in pairs {
        batch.put(pair.key, pair.value);
    }
    let done = engine.batch(&batch).await.all();
    done.map(drop).map_err(|e| e.to_string())
}
