//! Compiles `proto/` (etcd's wire interface, written from its field numbers) into Rust.
//!
//! `protox` parses the files, so nobody needs `protoc` installed. `bytes` fields become
//! `bytes::Bytes`: decoding then slices the receive buffer instead of copying (the store copies
//! once, on apply).

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const FILES: [&str; 4] = ["kv.proto", "auth.proto", "rpc.proto", "health.proto"];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".")
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
