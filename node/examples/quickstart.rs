//! The README's example: open an engine in this process, write, read, stop.
//! `cargo run --example quickstart`

use henge::Engine;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::builder("data.henge").open()?;

    // Of what is overwritten and deleted, the last 100,000 revisions stay (`auto_compaction` for
    // another number, a time, or all). Blocking calls for programs without a runtime; the same
    // methods on `engine` are async and work on any runtime. An answer means: durable.
    let db = engine.blocking();
    let written = db.put("accounts/ada", "100")?;
    println!("revision {}", written.header.revision);

    if let Some(found) = db.get("accounts/ada")? {
        println!(
            "{:?} was last written at revision {}",
            found.value, found.mod_revision
        );
    }

    db.lease_grant(0, 60)?;
    db.stop();
    Ok(())
}
