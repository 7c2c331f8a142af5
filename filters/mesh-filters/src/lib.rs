//! mesh-filters
