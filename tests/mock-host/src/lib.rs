//! mock-host
