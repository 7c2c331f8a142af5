//! Foreign functions that Envoy registers (`source/extensions/common/wasm/foreign.cc`), as far as filters
//! here need them.

pub(crate) mod cel;
pub(crate) mod crypto;
pub(crate) mod protobuf;

use crate::foreign::protobuf::{
    DeclarePropertyArguments, GrpcService, SetEnvoyFilterStateArguments, VerifySignatureArguments,
    VerifySignatureResult,
};
use crate::host::filter_state::{Prototype, Type};
use crate::imports::Guest;
use crate::vm::abi::Status;
use prost::Message;

/// Whether the host has a function; an absent one is `NOT_FOUND`. `compress`, `uncompress` and `sign` are
/// absent here.
pub(crate) fn exists(name: &str) -> bool {
    matches!(
        name,
        "verify_signature"
            | "set_envoy_filter_state"
            | "clear_route_cache"
            | "declare_property"
            | "expr_create"
            | "expr_evaluate"
            | "expr_delete"
    )
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
        "expr_create" => cel::create(guest, argument).map(Some),
        "expr_evaluate" => cel::evaluate(guest, argument).map(Some),
        "expr_delete" => cel::delete(guest, argument).map(|()| None),
        _ => Err(Status::NOT_FOUND),
    }
}

/// `VerifySignatureArguments` in, `VerifySignatureResult` out (`ext/verify_signature.proto`). No key, two
/// keys and a key that does not parse are `BAD_ARGUMENT`; a signature that does not fit is a result that says
/// so.
fn verify_signature(argument: &[u8]) -> Result<Vec<u8>, Status> {
    let arguments: VerifySignatureArguments = parse(argument)?;
    let der = match (arguments.public_key, arguments.public_key_pem.as_str()) {
        (der, "") if !der.is_empty() => der,
        (der, pem) if der.is_empty() && !pem.is_empty() => {
            crypto::pem_to_der(pem).ok_or(Status::BAD_ARGUMENT)?
        }
        _ => return Err(Status::BAD_ARGUMENT),
    };
    let key = crypto::parse_public_key(&der).ok_or(Status::BAD_ARGUMENT)?;
    let verified =
        crypto::verify(&arguments.hash_function, &key, &arguments.signature, &arguments.clear_text);
    let result =
        VerifySignatureResult { result: verified.is_ok(), error: verified.err().unwrap_or_default() };
    Ok(result.encode_to_vec())
}

/// `SetEnvoyFilterStateArguments` (`ext/set_envoy_filter_state.proto`).
fn set_envoy_filter_state(guest: &mut Guest, argument: &[u8]) -> Result<(), Status> {
    let SetEnvoyFilterStateArguments { path, value } = parse(argument)?;
    guest
        .stream(|stream| stream.filter_state.set_envoy(&path, value.as_bytes()))
        .unwrap_or(Err(Status::NOT_FOUND))
}

/// `DeclarePropertyArguments` (`ext/declare_property.proto`): a name that is declared again is refused
/// (`Context::declareProperty`).
fn declare_property(guest: &mut Guest, argument: &[u8]) -> Result<(), Status> {
    let DeclarePropertyArguments { name, readonly, kind, schema } = parse(argument)?;
    let kind = match kind {
        0 => Type::Bytes,
        1 => Type::String,
        3 if schema == b"type.googleapis.com/google.protobuf.Struct" => Type::Struct,
        _ => Type::Other,
    };
    let prototype = Prototype { read_only: readonly, kind };
    let root = guest.current_root().ok_or(Status::BAD_ARGUMENT)?;
    if root.prototypes.contains_key(&name) {
        return Err(Status::BAD_ARGUMENT);
    }
    root.prototypes.insert(name, prototype);
    Ok(())
}

/// `envoy_grpc.cluster_name` of a serialised `envoy.config.core.v3.GrpcService`; `None` if it does not parse
/// as one.
pub(crate) fn grpc_service_cluster(service: &[u8]) -> Option<String> {
    Some(GrpcService::decode(service).ok()?.envoy_grpc?.cluster_name)
}

/// The message of an argument. Envoy answers one that does not parse with `BAD_ARGUMENT`.
fn parse<M: Message + Default>(argument: &[u8]) -> Result<M, Status> {
    M::decode(argument).map_err(|_| Status::BAD_ARGUMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = include_bytes!("../testdata/text.txt");
    const RSA: &[u8] = include_bytes!("../testdata/rsa.spki.der");
    const RSA_PEM: &[u8] = include_bytes!("../testdata/rsa.spki.pem");
    const RSA_SIGNATURE: &[u8] = include_bytes!("../testdata/rsa.sha256.sig");
    const P256: &[u8] = include_bytes!("../testdata/p256.spki.der");
    const P256_SIGNATURE: &[u8] = include_bytes!("../testdata/p256.sha256.sig");
    const ED25519: &[u8] = include_bytes!("../testdata/ed25519.spki.der");
    const ED25519_SIGNATURE: &[u8] = include_bytes!("../testdata/ed25519.sig");

    /// `VerifySignatureArguments`: hash, key in DER, signature, text, key in PEM.
    fn check(
        hash: &str,
        der: &[u8],
        signature: &[u8],
        text: &[u8],
        pem: &[u8],
    ) -> Result<(bool, String), Status> {
        let arguments = VerifySignatureArguments {
            hash_function: hash.to_owned(),
            public_key: der.to_vec(),
            signature: signature.to_vec(),
            clear_text: text.to_vec(),
            public_key_pem: std::str::from_utf8(pem).expect("PEM is text").to_owned(),
        };
        let result = verify_signature(&arguments.encode_to_vec())?;
        let VerifySignatureResult { result, error } = parse(&result)?;
        Ok((result, error))
    }

    #[test]
    fn signatures_of_openssl_fit() {
        let fits = Ok((true, String::new()));
        assert_eq!(check("sha256", RSA, RSA_SIGNATURE, TEXT, b""), fits);
        assert_eq!(check("SHA256", b"", RSA_SIGNATURE, TEXT, RSA_PEM), fits);
        assert_eq!(check("sha256", P256, P256_SIGNATURE, TEXT, b""), fits);
    }

    #[test]
    fn another_text_or_hash_does_not_fit() {
        let wrong = Ok((false, "Failed to verify digest. Error code: 0".to_owned()));
        assert_eq!(check("sha256", RSA, RSA_SIGNATURE, b"other", b""), wrong);
        assert_eq!(check("sha384", RSA, RSA_SIGNATURE, TEXT, b""), wrong);
        assert_eq!(check("sha256", P256, P256_SIGNATURE, b"other", b""), wrong);
        assert_eq!(check("sha256", P256, RSA_SIGNATURE, TEXT, b""), wrong);
        assert_eq!(
            check("md5", RSA, RSA_SIGNATURE, TEXT, b""),
            Ok((false, "md5 is not supported.".to_owned()))
        );
    }

    #[test]
    fn ed25519_does_not_work() {
        let failed = Ok((false, "Failed to initialize digest verify.".to_owned()));
        assert_eq!(check("sha512", ED25519, ED25519_SIGNATURE, TEXT, b""), failed);
    }

    #[test]
    fn no_key_two_keys_and_a_broken_key_are_bad_arguments() {
        for (der, pem) in
            [(&b""[..], &b""[..]), (RSA, RSA_PEM), (&RSA[..100], b""), (b"", b"-----BEGIN PUBLIC KEY-----")]
        {
            assert_eq!(check("sha256", der, RSA_SIGNATURE, TEXT, pem), Err(Status::BAD_ARGUMENT));
        }
        assert_eq!(verify_signature(b"\xff"), Err(Status::BAD_ARGUMENT));
    }

    #[test]
    fn a_grpc_service_names_its_cluster() {
        assert_eq!(grpc_service_cluster(b"\x0a\x08\x0a\x06limits"), Some("limits".to_owned()));
        assert_eq!(grpc_service_cluster(b"limits"), None);
    }
}
