//! Three-valued truth: a test holds, it does not hold, or that is in doubt.

use crate::host::HostError;

/// Whether something holds; `None` if that is in doubt.
pub(super) type Truth = Result<Option<bool>, HostError>;

/// Whether at least one item holds. It is in doubt if no item holds and at least one is in doubt.
pub(super) fn any<T>(items: impl IntoIterator<Item = T>, holds: impl Fn(T) -> Truth) -> Truth {
    let mut found = Some(false);
    for item in items {
        match holds(item)? {
            Some(true) => return Ok(Some(true)),
            Some(false) => {}
            None => found = None,
        }
    }
    Ok(found)
}

/// Whether all items hold. It is in doubt if no item fails and at least one is in doubt.
pub(super) fn all<T>(items: impl IntoIterator<Item = T>, holds: impl Fn(T) -> Truth) -> Truth {
    not(any(items, |item| not(holds(item))))
}

pub(super) fn not(truth: Truth) -> Truth {
    truth.map(|truth| truth.map(|truth| !truth))
}
