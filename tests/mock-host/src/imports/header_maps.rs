//! Header maps.

use super::guest::{Done, Guest};
use crate::stream::headers::HeaderMap;
use crate::vm::abi::{MapType, Status, marshal_pairs, to_pairs};

/// `Context::getConstMap`.
fn map(guest: &mut Guest, kind: MapType) -> Option<HeaderMap> {
    let context = guest.context()?;
    let (requests, responses, log) = (context.request_headers, context.response_headers, context.access_log);
    match kind {
        MapType::RequestHeaders if requests || log => guest.with_stream(|stream| stream.request.clone()),
        MapType::ResponseHeaders if responses || log => {
            guest.with_stream(|stream| stream.response.clone())?
        }
        MapType::HttpCallResponseHeaders => guest
            .root()
            .and_then(|(_, root)| root.call_response.as_ref())
            .map(|response| response.headers.clone()),
        _ => None,
    }
}

/// `Context::getMap`, and `onHeadersModified`: a changed request header clears the route cache (seen in Envoy
/// 1.39 with ABI 0.2.1).
fn change_map(guest: &mut Guest, kind: u32, change: impl FnOnce(&mut HeaderMap)) -> Done {
    let kind = MapType::new(kind)?;
    let context = guest.context().ok_or(Status::BAD_ARGUMENT)?;
    let there = match kind {
        MapType::RequestHeaders => context.request_headers,
        MapType::ResponseHeaders => context.response_headers,
        _ => false,
    };
    let changed = guest.with_stream(|stream| {
        if !there {
            return None;
        }
        if kind == MapType::RequestHeaders {
            change(&mut stream.request);
            stream.route_cache_cleared = true;
        } else {
            change(stream.response.as_mut()?);
        }
        Some(())
    });
    Ok(changed.flatten().ok_or(Status::BAD_ARGUMENT)?)
}

pub(super) fn get_header_map_value(
    guest: &mut Guest,
    kind: u32,
    name: u32,
    name_size: u32,
    pointer_to: u32,
    size_to: u32,
) -> Done {
    let kind = MapType::new(kind)?;
    let name = guest.read_text(name, name_size)?;
    let Some(map) = map(guest, kind) else {
        let log = guest.context().is_some_and(|context| context.access_log);
        return Err(if log { Status::NOT_FOUND } else { Status::BAD_ARGUMENT }.into());
    };
    let value = map.get_bytes(&name).ok_or(Status::NOT_FOUND)?;
    guest.give(value, pointer_to, size_to)
}

pub(super) fn add_header_map_value(
    guest: &mut Guest,
    kind: u32,
    name: u32,
    name_size: u32,
    value: u32,
    value_size: u32,
) -> Done {
    let name = guest.read_text(name, name_size)?;
    let value = guest.read(value, value_size)?;
    change_map(guest, kind, |map| map.add(&name, value))
}

pub(super) fn replace_header_map_value(
    guest: &mut Guest,
    kind: u32,
    name: u32,
    name_size: u32,
    value: u32,
    value_size: u32,
) -> Done {
    let name = guest.read_text(name, name_size)?;
    let value = guest.read(value, value_size)?;
    change_map(guest, kind, |map| map.set(&name, value))
}

pub(super) fn remove_header_map_value(guest: &mut Guest, kind: u32, name: u32, name_size: u32) -> Done {
    let name = guest.read_text(name, name_size)?;
    change_map(guest, kind, |map| map.remove(&name))
}

/// A map that is not there is an empty one, and no error (`headerMapToPairs`).
pub(super) fn get_header_map_pairs(guest: &mut Guest, kind: u32, pointer_to: u32, size_to: u32) -> Done {
    let kind = MapType::new(kind)?;
    let map = map(guest, kind).unwrap_or_default();
    let bytes = if map.is_empty() { Vec::new() } else { marshal_pairs(map.pairs()) };
    guest.give(&bytes, pointer_to, size_to)
}

pub(super) fn set_header_map_pairs(guest: &mut Guest, kind: u32, pairs: u32, pairs_size: u32) -> Done {
    let pairs = to_pairs(&guest.read(pairs, pairs_size)?);
    change_map(guest, kind, |map| *map = pairs.into_iter().collect())
}

/// `Context::getHeaderMapSize` asks `getMap`, so callout responses have no size.
pub(super) fn get_header_map_size(guest: &mut Guest, kind: u32, to: u32) -> Done {
    let kind = MapType::new(kind)?;
    let context = guest.context().ok_or(Status::BAD_ARGUMENT)?;
    let there = match kind {
        MapType::RequestHeaders => context.request_headers,
        MapType::ResponseHeaders => context.response_headers,
        _ => false,
    };
    let map = map(guest, kind).filter(|_| there).ok_or(Status::BAD_ARGUMENT)?;
    Ok(guest.write_word(to, u32::try_from(map.byte_size()).unwrap_or(u32::MAX))?)
}
