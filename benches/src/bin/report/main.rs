//! `make report`: what the benches found, as `benches/results/README.md` with plots, and in the README.
//!
//! Everything is made of the JSON that is kept in `benches/results`; `--check` says whether what is written is that.

mod claims;
mod files;
mod found;
mod markdown;
mod measures;
mod page;
mod plots;
mod readme;
mod show;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;

/// Makes the report of what the benches found.
#[derive(Debug, Parser)]
struct Args {
    /// Where the benches put what they found: report.json, and istiod.json, scale.json and relay.json if there are any
    #[arg(long, default_value = "target/bench", value_name = "FOLDER")]
    found: PathBuf,
    /// Where it is kept, and the report goes
    #[arg(long, default_value = "benches/results", value_name = "FOLDER")]
    results: PathBuf,
    /// The file of which a part is rewritten
    #[arg(long, default_value = "README.md", value_name = "FILE")]
    readme: PathBuf,
    /// Write nothing: say what is not as the kept JSON gives it, and fail if anything is
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("report: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    if args.check {
        return check(&args.results, &args.readme);
    }
    if !files::keep(&args.found, &args.results)?.contains(&files::REPORT) {
        eprintln!(
            "{} has no {}: what is kept stays (hint: `make bench`)",
            args.found.display(),
            files::REPORT
        );
    }
    for file in files::generate(&args.results, &args.readme)? {
        if file.write()? {
            println!("written: {}", file.path.display());
        }
    }
    Ok(())
}

/// Whether what is written is what the kept JSON gives.
fn check(results: &Path, readme: &Path) -> Result<()> {
    let mut wrong = Vec::new();
    for file in files::generate(results, readme)? {
        if !file.is_written().context("cannot check")? {
            wrong.push(file.path.display().to_string());
        }
    }
    ensure!(
        wrong.is_empty(),
        "not what {} gives (hint: `make report`): {}",
        results.display(),
        wrong.join(", ")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_report_and_the_readme_are_what_the_kept_numbers_give() {
        let benches = Path::new(env!("CARGO_MANIFEST_DIR"));
        check(&benches.join("results"), &benches.join("../README.md")).unwrap();
    }

    #[test]
    fn a_number_changed_by_hand_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let (found, results) = (folder.path().join("found"), folder.path().join("results"));
        let readme = folder.path().join("README.md");
        fs::create_dir_all(&found).unwrap();
        fs::write(&readme, "<!-- numbers:begin -->\n<!-- numbers:end -->\n").unwrap();
        let args = |check: bool| Args {
            found: found.clone(),
            results: results.clone(),
            readme: readme.clone(),
            check,
        };
        run(&args(false)).unwrap();
        let page = fs::read_to_string(results.join("README.md")).unwrap();
        assert!(page.contains("not measured"));
        let heap = r#"{"sizes": {"1000": {"plain": {"heap_bytes": 180000000}}}}"#;
        fs::write(found.join("report.json"), heap).unwrap();
        run(&args(false)).unwrap();
        run(&args(true)).unwrap();
        assert!(results.join("heap.svg").exists());
        for file in [
            &readme,
            &results.join("README.md"),
            &results.join("heap.svg"),
        ] {
            let good = fs::read_to_string(file).unwrap();
            fs::write(file, good.replace("plain Istio", "plainly Istio")).unwrap();
            let error = run(&args(true)).unwrap_err().to_string();
            let name = file.file_name().unwrap().to_str().unwrap();
            assert!(error.contains(name), "{error}");
            fs::write(file, good).unwrap();
            run(&args(true)).unwrap();
        }
        // A plot of what is no longer measured is wrong, and goes.
        fs::write(results.join("ready.svg"), "old").unwrap();
        assert!(run(&args(true)).is_err());
        run(&args(false)).unwrap();
        assert!(!results.join("ready.svg").exists());
    }
}
