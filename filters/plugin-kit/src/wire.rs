//! Formats of bytes: JSON and protocol buffers from outside, and the comparison of bytes.

pub mod bytes;
pub mod json;
pub mod protobuf;
