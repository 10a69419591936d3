//! The fallback data plane.

fn main() {}
