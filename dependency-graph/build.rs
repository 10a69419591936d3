//! Generates the graph API from its `.proto` with a compiler written in Rust, so no `protoc` is needed.

use std::error::Error;

const PROTO: &str = "lazymesh/graph/v1alpha1/graph.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile([PROTO], ["proto"])?;
    tonic_prost_build::configure().compile_fds(files)?;
    Ok(())
}
