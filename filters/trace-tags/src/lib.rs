//! trace-tags
