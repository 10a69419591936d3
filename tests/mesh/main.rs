//! Tests against a real mesh. How to write one: `tests/README.md`.

use std::process::ExitCode;

use mesh_tests::testbed::{MeshOptions, run};

mod plain;

fn main() -> ExitCode {
    let tests = plain::tests();
    run(tests, MeshOptions::default())
}
