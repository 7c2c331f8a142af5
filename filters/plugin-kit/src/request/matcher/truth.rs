//! Three-valued truth: a test holds, it does not hold, or that is in doubt.

use crate::host::HostError;

/// Whether something holds; `None` where that is not known: in doubt.
pub(super) type Truth = Result<Option<bool>, HostError>;

/// Whether one of them holds; in doubt where none does, and one is.
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

/// Whether all of them hold; in doubt where one is, and no other does not.
pub(super) fn all<T>(items: impl IntoIterator<Item = T>, holds: impl Fn(T) -> Truth) -> Truth {
    not(any(items, |item| not(holds(item))))
}

pub(super) fn not(truth: Truth) -> Truth {
    truth.map(|truth| truth.map(|truth| !truth))
}
