//! The registry of a process. It never touches the process-wide default registry.

use prometheus::Registry;
use prometheus::process_collector::ProcessCollector;

/// A registry that has the process's own memory, CPU time and descriptors to begin with.
///
/// # Errors
/// When two metrics of the same name meet, which a new registry rules out.
pub fn registry() -> Result<Registry, prometheus::Error> {
    let registry = Registry::new();
    registry.register(Box::new(ProcessCollector::for_self()))?;
    Ok(registry)
}
