//! Tests against a real mesh. How to write one: `tests/README.md`.

use std::process::ExitCode;

use mesh_tests::testbed::{MeshOptions, run};

mod bench;
mod changes;
mod command;
mod controller;
mod fallback;
mod learning;
mod on_demand;
mod pass_through;
mod plain;
mod proxy_status;
mod references;
mod restarts;
mod routing;
mod same_config;
mod scale;
mod settled;
mod shim;
mod sidecar;
mod stand_ins;
mod steps;
mod whole_config;

fn main() -> ExitCode {
    let tests = [
        plain::tests(),
        bench::tests(),
        pass_through::tests(),
        proxy_status::tests(),
        whole_config::tests(),
        restarts::tests(),
        learning::tests(),
        changes::tests(),
        controller::tests(),
        fallback::tests(),
        on_demand::tests(),
        references::tests(),
        routing::tests(),
        scale::tests(),
        settled::tests(),
        shim::tests(),
        sidecar::tests(),
        stand_ins::tests(),
    ]
    .concat();
    run(tests, MeshOptions::default())
}
