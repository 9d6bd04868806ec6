//! RocksDB: a put or a `WriteBatch` with `sync`, which its writers commit in groups. Built without
//! compression libraries: values here do not compress, and its log is never compressed.

use std::path::Path;
use std::sync::Arc;

use rocksdb::{DB, Options, WriteBatch, WriteOptions};

use super::Store;
use super::load::{Load, Rate};

pub struct RocksDb;

impl Store for RocksDb {
    fn name(&self) -> &'static str {
        "rocksdb"
    }

    fn writers(&self) -> &'static [usize] {
        &[1, 16, 64, 256]
    }

    fn load(&self, dir: &Path, load: &Arc<Load>) -> Result<Rate, String> {
        let mut options = Options::default();
        options.create_if_missing(true);
        let db = DB::open(&options, dir.join("rocksdb")).map_err(|e| e.to_string())?;
        let mut durable = WriteOptions::default();
        durable.set_sync(true);
        load.on_threads(
            |pairs| {
                let mut batch = WriteBatch::default();
                for pair in pairs {
                    batch.put(pair.key, pair.value);
                }
                db.write_opt(batch, &durable).map_err(|e| e.to_string())
            },
            |key| db.get(key).map_err(|e| e.to_string()),
        )
    }
}
