//! Bodies and the other buffers.

use super::guest::{Done, Guest};
use crate::vm::abi::Status;

/// `Context::getBuffer`: `None` is a null buffer.
fn buffer(guest: &mut Guest, kind: u32) -> Result<Option<Vec<u8>>, Status> {
    let Some(context) = guest.context() else { return Ok(None) };
    let (request, response) = (context.request_body, context.response_body);
    Ok(match kind {
        0 => Some(
            guest.with_stream(|stream| stream.request_body.clone()).filter(|_| request).unwrap_or_default(),
        ),
        1 => Some(
            guest.with_stream(|stream| stream.response_body.clone()).filter(|_| response).unwrap_or_default(),
        ),
        2 | 3 | 8 => Some(Vec::new()),
        4 => guest
            .root()
            .and_then(|(_, root)| root.call_response.as_ref())
            .map(|response| response.body.clone()),
        5 => Some(guest.root().and_then(|(_, root)| root.grpc_message.clone()).unwrap_or_default()),
        6 => Some(guest.state().vm_configuration.clone()),
        7 => {
            context.plugin.as_ref().filter(|_| context.configuring).map(|plugin| plugin.configuration.clone())
        }
        _ => return Err(Status::BAD_ARGUMENT),
    })
}

pub(super) fn get_buffer_status(guest: &mut Guest, kind: u32, length_to: u32, flags_to: u32) -> Done {
    let buffer = buffer(guest, kind)?.ok_or(Status::NOT_FOUND)?;
    guest.write_word(length_to, u32::try_from(buffer.len()).unwrap_or(u32::MAX))?;
    Ok(guest.write_word(flags_to, 0)?)
}

/// A range beyond the end is cut, not refused.
pub(super) fn get_buffer_bytes(
    guest: &mut Guest,
    kind: u32,
    start: u32,
    length: u32,
    pointer_to: u32,
    size_to: u32,
) -> Done {
    let buffer = buffer(guest, kind)?.ok_or(Status::NOT_FOUND)?;
    let start = usize::try_from(start).unwrap_or(usize::MAX).min(buffer.len());
    let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX)).min(buffer.len());
    guest.give(&buffer[start..end], pointer_to, size_to)
}

/// `Buffer::copyFrom`: a body can be replaced, prepended to or appended to; nothing else can be written.
pub(super) fn set_buffer_bytes(
    guest: &mut Guest,
    kind: u32,
    start: u32,
    length: u32,
    data: u32,
    data_size: u32,
) -> Done {
    buffer(guest, kind)?.ok_or(Status::NOT_FOUND)?;
    let data = guest.read(data, data_size)?;
    let context = guest.context().ok_or(Status::BAD_ARGUMENT)?;
    if !(kind == 0 && context.request_body || kind == 1 && context.response_body) {
        return Err(Status::BAD_ARGUMENT.into());
    }
    let (start, length) =
        (usize::try_from(start).unwrap_or(usize::MAX), usize::try_from(length).unwrap_or(usize::MAX));
    let copied = guest.with_stream(|stream| {
        let body = if kind == 0 { &mut stream.request_body } else { &mut stream.response_body };
        match (start, length) {
            (0, 0) => drop(body.splice(0..0, data)),
            (0, _) if length >= body.len() => *body = data,
            (0, _) => return Err(Status::BAD_ARGUMENT),
            _ if start >= body.len() => body.extend(data),
            _ => return Err(Status::BAD_ARGUMENT),
        }
        Ok(())
    });
    Ok(copied.unwrap_or(Err(Status::BAD_ARGUMENT))?)
}
