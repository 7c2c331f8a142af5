//! Attributes and filter state.

use super::guest::{Done, Guest};
use crate::properties;
use crate::properties::Value;
use crate::vm::abi::Status;

pub(super) fn set_property(
    guest: &mut Guest,
    path: u32,
    path_size: u32,
    value: u32,
    value_size: u32,
) -> Done {
    let path = guest.read_text(path, path_size)?;
    let value = guest.read(value, value_size)?;
    let prototype =
        guest.root().and_then(|(_, root)| root.prototypes.get(&path).cloned()).unwrap_or_default();
    // `Context::setProperty`: without a stream there is no filter state.
    let set = guest.with_stream(|stream| stream.filter_state.set_property(&path, &value, &prototype));
    Ok(set.unwrap_or(Err(Status::NOT_FOUND))?)
}

pub(super) fn get_property(
    guest: &mut Guest,
    path: u32,
    path_size: u32,
    pointer_to: u32,
    size_to: u32,
) -> Done {
    let path = properties::parts(&guest.read(path, path_size)?);
    let Some((name, rest)) = path.split_first() else { return Err(Status::SERIALIZATION_FAILURE.into()) };
    let top = find_value(guest, name).ok_or(Status::NOT_FOUND)?;
    let value = properties::descend(top, rest)?.serialize()?;
    guest.give(&value, pointer_to, size_to)
}

/// `Context::findValue`: first the attributes (`StreamActivation::FindValue`; all but `xds` need a stream),
/// then filter state, then what Wasm adds.
pub(crate) fn find_value(guest: &mut Guest, name: &str) -> Option<Value> {
    let context = guest.context()?;
    let (plugin, requests, responses, log) =
        (context.plugin.clone(), context.request_headers, context.response_headers, context.access_log);
    let node = guest.state().host.borrow().node.clone();
    if name == "xds" {
        // `xds.node` needs the plugin's local info, which the VM's own context has not.
        let node = plugin.is_some().then(|| ("node".to_owned(), node));
        let route = guest.with_stream(|stream| stream.route.attributes()).unwrap_or_default();
        return Some(Value::Map(node.into_iter().chain(route).collect()));
    }
    let found = guest.with_stream(|stream| {
        let request = (requests || log).then_some(&stream.request);
        let response = stream.response.as_ref().filter(|_| responses || log);
        match name {
            "request" => {
                let value = properties::request(request, stream.request_body.len(), stream.start);
                // `RequestWrapper`: the duration is known when the request is complete.
                let duration = stream.has_ended().then(|| ("duration".to_owned(), Value::Int(1)));
                Some(value.with(duration))
            }
            "response" => {
                let details = stream.details.as_deref();
                Some(properties::response(
                    response,
                    stream.response_code(),
                    details,
                    stream.response_body.len(),
                ))
            }
            "connection" => Some(stream.connection.attributes()),
            "source" => Some(properties::peer(&stream.connection.source)),
            "destination" => Some(properties::peer(&stream.connection.destination)),
            "upstream" | "metadata" | "upstream_filter_state" => Some(Value::Map(Vec::new())),
            "filter_state" => {
                let values = stream.filter_state.values().into_iter();
                Some(Value::Map(values.map(|(key, value)| (key, Value::Bytes(value))).collect()))
            }
            "connection_id" => Some(Value::Uint(stream.connection.id)),
            _ => stream.filter_state.property(name).map(|value| Value::Bytes(value.to_vec())),
        }
    });
    if let Some(found) = found.flatten() {
        return Some(found);
    }
    match name {
        "plugin_name" => plugin.map(|plugin| plugin.name.as_str().into()),
        // Only a root context has a root ID of its own (`ContextBase::root_id`: a stream asks its root).
        "plugin_root_id" => plugin.map(|plugin| plugin.root_id.as_str().into()),
        "plugin_vm_id" => Some(guest.state().vm_id.as_str().into()),
        _ => None,
    }
}
