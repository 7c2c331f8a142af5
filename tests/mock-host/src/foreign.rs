//! Foreign functions that Envoy registers (`source/extensions/common/wasm/foreign.cc`), as far as filters here need them.

use crate::abi::Status;
use crate::crypto;
use crate::filter_state::Prototype;
use crate::imports::Guest;
use crate::protobuf::{self, Field};

/// Whether the host has a function; an absent one is `NOT_FOUND`. CEL (`expr_create`, `expr_evaluate`, `expr_delete`),
/// `compress`, `uncompress` and `sign` are absent here.
pub(crate) fn exists(name: &str) -> bool {
    matches!(name, "verify_signature" | "set_envoy_filter_state" | "clear_route_cache" | "declare_property")
}

/// Calls a function; `None` is a function that gives no result.
pub(crate) fn call(guest: &mut Guest, name: &str, argument: &[u8]) -> Result<Option<Vec<u8>>, Status> {
    match name {
        "verify_signature" => verify_signature(argument).map(Some),
        "set_envoy_filter_state" => set_envoy_filter_state(guest, argument).map(|()| None),
        "clear_route_cache" => {
            guest.stream(|stream| stream.route_cache_cleared = true);
            Ok(None)
        }
        "declare_property" => declare_property(guest, argument).map(|()| None),
        _ => Err(Status::NOT_FOUND),
    }
}

/// `VerifySignatureArguments` in, `VerifySignatureResult` out (`ext/verify_signature.proto`). No key, two keys and a key
/// that does not parse are `BAD_ARGUMENT`; a signature that does not fit is a result that says so.
fn verify_signature(argument: &[u8]) -> Result<Vec<u8>, Status> {
    let fields = protobuf::fields(argument).ok_or(Status::BAD_ARGUMENT)?;
    let text =
        |number| std::str::from_utf8(protobuf::bytes(&fields, number)).map_err(|_| Status::BAD_ARGUMENT);
    let (hash, der, pem) = (text(1)?, protobuf::bytes(&fields, 2), text(5)?);
    let der = match (der, pem) {
        ([], "") => return Err(Status::BAD_ARGUMENT),
        ([], pem) => crypto::pem_to_der(pem).ok_or(Status::BAD_ARGUMENT)?,
        (der, "") => der.to_vec(),
        _ => return Err(Status::BAD_ARGUMENT),
    };
    let key = crypto::parse_public_key(&der).ok_or(Status::BAD_ARGUMENT)?;
    let verified = crypto::verify(hash, &key, protobuf::bytes(&fields, 3), protobuf::bytes(&fields, 4));
    let mut result = Vec::new();
    protobuf::put_bool(&mut result, 1, verified.is_ok());
    protobuf::put_bytes(&mut result, 2, verified.err().unwrap_or_default().as_bytes());
    Ok(result)
}

/// `SetEnvoyFilterStateArguments` (`ext/set_envoy_filter_state.proto`).
fn set_envoy_filter_state(guest: &mut Guest, argument: &[u8]) -> Result<(), Status> {
    let fields = protobuf::fields(argument).ok_or(Status::BAD_ARGUMENT)?;
    let path = String::from_utf8_lossy(protobuf::bytes(&fields, 1)).into_owned();
    let value = protobuf::bytes(&fields, 2);
    guest.stream(|stream| stream.filter_state.set_envoy(&path, value)).unwrap_or(Err(Status::NOT_FOUND))
}

/// `DeclarePropertyArguments` (`ext/declare_property.proto`): a name that is declared again is refused
/// (`Context::declareProperty`).
fn declare_property(guest: &mut Guest, argument: &[u8]) -> Result<(), Status> {
    let fields = protobuf::fields(argument).ok_or(Status::BAD_ARGUMENT)?;
    let name = String::from_utf8_lossy(protobuf::bytes(&fields, 1)).into_owned();
    let prototype = Prototype { read_only: protobuf::number(&fields, 2) != 0 };
    let root = guest.root_context().ok_or(Status::BAD_ARGUMENT)?;
    if root.prototypes.contains_key(&name) {
        return Err(Status::BAD_ARGUMENT);
    }
    root.prototypes.insert(name, prototype);
    Ok(())
}

/// `envoy_grpc.cluster_name` of a serialised `envoy.config.core.v3.GrpcService`; `None` if it does not parse as one.
pub(crate) fn grpc_service_cluster(service: &[u8]) -> Option<String> {
    let fields = protobuf::fields(service)?;
    let envoy_grpc = fields.iter().find_map(|(number, field)| match field {
        Field::Bytes(message) if *number == 1 => Some(*message),
        _ => None,
    })?;
    let cluster = protobuf::bytes(&protobuf::fields(envoy_grpc)?, 1).to_vec();
    String::from_utf8(cluster).ok()
}
