//! Process scaffolding shared by Lazymesh's binaries: telemetry, admin port, drain, readiness, TLS reload.
