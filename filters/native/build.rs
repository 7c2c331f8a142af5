//! Tells the linker what a module of the proxy needs.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // The timer is a thread of the module, so the proxy must not unload it.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
