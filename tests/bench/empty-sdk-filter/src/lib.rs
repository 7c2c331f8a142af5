//! The least that the Proxy-Wasm SDK can be: a filter that does nothing, built the way the SDK's examples
//! are. The floor that the benchmark compares with.
#![allow(clippy::restriction)]

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::ContextType;

struct Empty;

impl Context for Empty {}
impl HttpContext for Empty {}
impl RootContext for Empty {
    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Empty))
    }
}

mod entry {
    use super::Empty;

    proxy_wasm::main! {{
        proxy_wasm::set_root_context(|_| Box::new(Empty));
    }}
}
