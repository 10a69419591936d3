//! The manifests say what the code does.

use std::path::Path;

#[test]
fn the_crd_manifest_is_the_generated_one() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/crd/workloaddependencies.yaml");
    let kept = std::fs::read_to_string(&path).unwrap();
    let generated = lazyload_controller::resource::manifest().unwrap();
    assert!(
        kept == generated,
        "{} is not what the types say (mend it by: cargo run -p lazyload-controller -- crd > {0})",
        path.display()
    );
}
