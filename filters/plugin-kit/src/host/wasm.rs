//! Envoy and other proxies as the host, by the Proxy-Wasm ABI: the only place that names the SDK.

#[cfg(target_os = "wasi")]
mod abi;
mod allocator;
#[cfg(target_os = "wasi")]
pub mod calls;
mod counts;
#[cfg(target_os = "wasi")]
pub mod dispatcher;
#[cfg(target_os = "wasi")]
mod exports;

#[cfg(target_os = "wasi")]
#[doc(hidden)]
pub use proxy_wasm;

/// The entry point of a module that runs this [`Filter`](crate::host::Filter).
#[macro_export]
macro_rules! module {
    ($filter:ty) => {
        use $crate::host::wasm::proxy_wasm;
        proxy_wasm::main!({ $crate::host::wasm::dispatcher::start::<$filter>() });
    };
}
