//! Functions that Envoy offers beyond the ABI.

use super::guest::{Done, Guest};
use crate::foreign;
use crate::host::faults::Effect;
use crate::vm::abi::Status;

pub(super) fn call_foreign_function(
    guest: &mut Guest,
    name: u32,
    name_size: u32,
    argument: u32,
    argument_size: u32,
    pointer_to: u32,
    size_to: u32,
) -> Done {
    let name = guest.read_text(name, name_size)?;
    let argument = guest.read(argument, argument_size)?;
    let (result, status) = match foreign::call(guest, &name, &argument) {
        Ok(result) => (result, Ok(())),
        Err(Status::NOT_FOUND) if !foreign::exists(&name) => return Err(Status::NOT_FOUND.into()),
        Err(status) => (None, Err(status)),
    };
    // Without a result the pointer and the size are written too, as 0.
    let result = result.unwrap_or_default();
    let spoiled = match guest.spoil.take() {
        Some(Effect::Replace(other)) => other,
        Some(Effect::Truncate(length)) => result[..length.min(result.len())].to_vec(),
        _ => result,
    };
    let pointer = if spoiled.is_empty() || pointer_to == 0 { 0 } else { guest.allocate(&spoiled)? };
    if pointer_to != 0 {
        guest.write_word(pointer_to, pointer)?;
    }
    if size_to != 0 {
        guest.write_word(size_to, u32::try_from(spoiled.len()).unwrap_or(u32::MAX))?;
    }
    Ok(status?)
}
