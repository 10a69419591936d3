//! Tests against a real mesh. How to write one: `tests/README.md`.

use std::process::ExitCode;

use mesh_tests::testbed::{MeshOptions, run};

mod plain;
mod shim;

fn main() -> ExitCode {
    let tests = [plain::tests(), shim::tests()].concat();
    run(tests, MeshOptions::default())
}
