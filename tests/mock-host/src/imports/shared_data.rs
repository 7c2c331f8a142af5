//! The data and the queues that all workers share.

use super::guest::{Done, Guest};

pub(super) fn get_shared_data(
    guest: &mut Guest,
    key: u32,
    key_size: u32,
    pointer_to: u32,
    size_to: u32,
    cas_to: u32,
) -> Done {
    let key = guest.read(key, key_size)?;
    let state = guest.state();
    let (value, cas) = state.host.borrow().shared_data.get(&state.vm_id, &key)?;
    guest.give(&value, pointer_to, size_to)?;
    Ok(guest.write_word(cas_to, cas)?)
}

pub(super) fn set_shared_data(
    guest: &mut Guest,
    key: u32,
    key_size: u32,
    value: u32,
    value_size: u32,
    cas: u32,
) -> Done {
    let key = guest.read(key, key_size)?;
    let value = guest.read(value, value_size)?;
    let state = guest.state();
    Ok(state.host.borrow_mut().shared_data.set(&state.vm_id, &key, &value, cas)?)
}

pub(super) fn register_shared_queue(guest: &mut Guest, name: u32, name_size: u32, token_to: u32) -> Done {
    let name = guest.read(name, name_size)?;
    let state = guest.state();
    let token = state.host.borrow_mut().shared_data.register_queue(&state.vm_id, &name);
    Ok(guest.write_word(token_to, token)?)
}

pub(super) fn resolve_shared_queue(
    guest: &mut Guest,
    vm_id: u32,
    vm_id_size: u32,
    name: u32,
    name_size: u32,
    token_to: u32,
) -> Done {
    let vm_id = guest.read_text(vm_id, vm_id_size)?;
    let name = guest.read(name, name_size)?;
    let state = guest.state();
    let vm_id = if vm_id.is_empty() { &state.vm_id } else { &vm_id };
    let token = state.host.borrow().shared_data.resolve_queue(vm_id, &name)?;
    Ok(guest.write_word(token_to, token)?)
}

pub(super) fn dequeue_shared_queue(guest: &mut Guest, token: u32, pointer_to: u32, size_to: u32) -> Done {
    let item = guest.state().host.borrow_mut().shared_data.dequeue(token)?;
    guest.give(&item, pointer_to, size_to)
}

pub(super) fn enqueue_shared_queue(guest: &mut Guest, token: u32, value: u32, value_size: u32) -> Done {
    let value = guest.read(value, value_size)?;
    Ok(guest.state().host.borrow_mut().shared_data.enqueue(token, &value)?)
}
