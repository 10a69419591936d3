//! Keeps the dependency graph in Kubernetes and gives it to shims.
