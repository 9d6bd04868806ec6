//! fjall 3: an insert and a `persist(SyncData)`, or a batch with that durability.

use std::path::Path;
use std::sync::Arc;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::Store;
use super::load::{Load, Pair, Rate};

pub struct Fjall;

impl Store for Fjall {
    fn name(&self) -> &'static str {
        "fjall"
    }

    fn writers(&self) -> &'static [usize] {
        &[1, 4, 16, 64]
    }

    fn load(&self, dir: &Path, load: &Arc<Load>) -> Result<Rate, String> {
        let open = || {
            let db = Database::builder(dir.join("fjall")).open()?;
            let keyspace = db.keyspace("pairs", KeyspaceCreateOptions::default)?;
            Ok::<_, fjall::Error>((db, keyspace))
        };
        let (db, keyspace) = open().map_err(|e| e.to_string())?;
        load.on_threads(
            |pairs| put(&db, &keyspace, pairs).map_err(|e| e.to_string()),
            |key| match keyspace.get(key) {
                Ok(found) => Ok(found.map(|value| value.to_vec())),
                Err(error) => Err(error.to_string()),
            },
        )
    }
}

fn put(db: &Database, keyspace: &Keyspace, pairs: &[Pair]) -> Result<(), fjall::Error> {
    if let [pair] = pairs {
        keyspace.insert(pair.key, pair.value)?;
        return db.persist(PersistMode::SyncData);
    }
    let mut batch = db.batch().durability(Some(PersistMode::SyncData));
    for pair in pairs {
        batch.insert(keyspace, pair.key, pair.value);
    }
    batch.commit()
}
