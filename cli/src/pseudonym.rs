//! The pseudonyms that trace-tags makes of users.

use trace_tags::tags::pseudonym::Pseudonym;

/// The pseudonym of `value` under `key`.
///
/// # Errors
/// The key is too short.
pub(crate) fn of(value: &str, key: &str, key_id: Option<&str>) -> Result<String, String> {
    let pseudonym = Pseudonym::new(key.as_bytes(), key_id).map_err(|error| error.to_string())?;
    Ok(pseudonym.of(value.as_bytes()))
}
