//! What a request is, whoever hosts the filter: its headers and path, who sent it, what it matches, and the values it has.

pub mod address;
pub mod cel;
pub mod claim;
pub mod exchange;
pub mod header_names;
pub mod headers;
pub mod matcher;
pub mod path;
pub mod path_index;
pub mod pseudonym;
pub mod source;
