//! The pseudonyms that trace-tags makes of users.

use plugin_kit::request::pseudonym::{KEY_ID, is_key_id};
use trace_tags::tags::pseudonym::Pseudonym;

/// The pseudonym of `value` under `key`.
///
/// # Errors
/// The key is too short, or the filter refuses the key ID.
pub(crate) fn of(value: &str, key: &str, key_id: Option<&str>) -> Result<String, String> {
    if key_id.is_some_and(|id| !is_key_id(id)) {
        return Err(format!("--key-id: {KEY_ID}"));
    }
    let pseudonym = Pseudonym::new(key.as_bytes(), key_id).map_err(|error| error.to_string())?;
    Ok(pseudonym.of(value.as_bytes()))
}
