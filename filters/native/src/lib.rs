//! The four filters as a native module of Envoy. Envoy's `filter_name` chooses one.

plugin_kit::native_module!(
    jwt_auth::plugin::JwtAuth,
    mesh_filters::plugin::MeshFilters,
    rate_limit::plugin::RateLimit,
    trace_tags::plugin::TraceTags,
);
