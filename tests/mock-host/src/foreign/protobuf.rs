//! The protobuf messages among the arguments and results of Envoy's foreign functions and gRPC calls.

use std::collections::BTreeMap;

use prost::Message;

/// `envoy.source.extensions.common.wasm.VerifySignatureArguments` (`ext/verify_signature.proto`).
#[derive(Clone, PartialEq, Message)]
pub(crate) struct VerifySignatureArguments {
    #[prost(string, tag = "1")]
    pub(crate) hash_function: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) public_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) signature: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) clear_text: Vec<u8>,
    #[prost(string, tag = "5")]
    pub(crate) public_key_pem: String,
}

/// `envoy.source.extensions.common.wasm.VerifySignatureResult`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct VerifySignatureResult {
    #[prost(bool, tag = "1")]
    pub(crate) result: bool,
    #[prost(string, tag = "2")]
    pub(crate) error: String,
}

/// `envoy.source.extensions.common.wasm.SetEnvoyFilterStateArguments` (`ext/set_envoy_filter_state.proto`),
/// without the life span.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SetEnvoyFilterStateArguments {
    #[prost(string, tag = "1")]
    pub(crate) path: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
}

/// `envoy.source.extensions.common.wasm.DeclarePropertyArguments` (`ext/declare_property.proto`), without the
/// life span.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct DeclarePropertyArguments {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(bool, tag = "2")]
    pub(crate) readonly: bool,
    /// A `WasmType`.
    #[prost(int32, tag = "3")]
    pub(crate) kind: i32,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) schema: Vec<u8>,
}

/// `envoy.config.core.v3.GrpcService`, of which Envoy's own client alone is known.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct GrpcService {
    #[prost(message, optional, tag = "1")]
    pub(crate) envoy_grpc: Option<EnvoyGrpc>,
}

/// `envoy.config.core.v3.GrpcService.EnvoyGrpc`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct EnvoyGrpc {
    #[prost(string, tag = "1")]
    pub(crate) cluster_name: String,
}

/// `google.protobuf.Struct`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Struct {
    #[prost(btree_map = "string, message", tag = "1")]
    pub(crate) fields: BTreeMap<String, Value>,
}

/// `google.protobuf.Value`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Value {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6")]
    pub(crate) kind: Option<Kind>,
}

/// `google.protobuf.Value.kind`.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Kind {
    #[prost(int32, tag = "1")]
    Null(i32),
    #[prost(double, tag = "2")]
    Number(f64),
    #[prost(string, tag = "3")]
    Text(String),
    #[prost(bool, tag = "4")]
    Bool(bool),
    #[prost(message, tag = "5")]
    Struct(Struct),
    #[prost(message, tag = "6")]
    List(List),
}

/// `google.protobuf.ListValue`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct List {
    #[prost(message, repeated, tag = "1")]
    pub(crate) values: Vec<Value>,
}
