//! redb 4: one transaction per put (or batch), durable when `commit` returns (its default). It has one
//! writer at a time by design.

use std::path::Path;
use std::sync::Arc;

use redb::{Database, ReadableDatabase, TableDefinition};

use super::Store;
use super::load::{Load, Pair, Rate};

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("pairs");

pub struct Redb;

impl Store for Redb {
    fn name(&self) -> &'static str {
        "redb"
    }

    fn writers(&self) -> &'static [usize] {
        &[1, 4, 16]
    }

    fn load(&self, dir: &Path, load: &Arc<Load>) -> Result<Rate, String> {
        let db = Database::create(dir.join("redb")).map_err(|e| e.to_string())?;
        load.on_threads(
            |pairs| put(&db, pairs).map_err(|e| e.to_string()),
            |key| get(&db, key).map_err(|e| e.to_string()),
        )
    }
}

fn put(db: &Database, pairs: &[Pair]) -> Result<(), redb::Error> {
    let txn = db.begin_write()?;
    {
        let mut table = txn.open_table(TABLE)?;
        for pair in pairs {
            table.insert(pair.key.as_slice(), pair.value.as_slice())?;
        }
    }
    Ok(txn.commit()?)
}

fn get(db: &Database, key: &[u8]) -> Result<Option<Vec<u8>>, redb::Error> {
    let table = db.begin_read()?.open_table(TABLE)?;
    Ok(table.get(key)?.map(|value| value.value().to_vec()))
}
