//! The file of the native module: what it shows to a proxy, and what it needs of the system on which it is loaded.
#![allow(clippy::restriction)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The module for this machine, and those for others that have been built.
fn modules() -> Vec<PathBuf> {
    let here = cases::native_module().unwrap();
    let folder = here.parent().unwrap();
    let others = ["amd64", "arm64"].map(|architecture| folder.join(architecture).join("libmesh_filters.so"));
    [here.clone()].into_iter().chain(others.into_iter().filter(|path| path.is_file())).collect()
}

/// What binutils say about a module, of every architecture.
fn readelf(option: &str, module: &Path) -> String {
    let done = Command::new("readelf").args(["--wide", option]).arg(module).output();
    let done = done.unwrap_or_else(|error| panic!("readelf: {error}; apt install binutils"));
    assert!(done.status.success(), "readelf {option} {}", module.display());
    String::from_utf8(done.stdout).unwrap()
}

/// The symbols of a module for the linker of the system: those that it has, and those that it needs.
fn symbols(module: &Path) -> (BTreeSet<String>, BTreeSet<String>) {
    let table = readelf("--dyn-syms", module);
    let symbols = table.lines().filter_map(|line| match *line.split_whitespace().collect::<Vec<_>>() {
        [_, _, _, _, "GLOBAL" | "WEAK", _, section, name, ..] => Some((section == "UND", name.to_owned())),
        _ => None,
    });
    let (needed, shown): (BTreeSet<_>, BTreeSet<_>) = symbols.partition(|(undefined, _)| *undefined);
    let names = |symbols: BTreeSet<(bool, String)>| symbols.into_iter().map(|(_, name)| name).collect();
    (names(shown), names(needed))
}

#[test]
fn the_proxy_finds_the_hooks_and_nothing_else() {
    for module in modules() {
        let (shown, _) = symbols(&module);
        let hook = |name: &String| name.starts_with("envoy_dynamic_module_on_");
        assert_eq!(shown.iter().filter(|name| !hook(name)).collect::<Vec<_>>(), Vec::<&String>::new());
        for name in ["program_init", "http_filter_config_new", "http_filter_request_headers"] {
            assert!(shown.contains(&format!("envoy_dynamic_module_on_{name}")), "{name} in {shown:?}");
        }
    }
}

/// What a process may have for the runtimes of transactions, of profiling and of its own memory, and need not have.
const OPTIONAL: [&str; 8] = [
    "_ITM_deregisterTMCloneTable",
    "_ITM_registerTMCloneTable",
    "__gmon_start__",
    "OPENSSL_memory_alloc",
    "OPENSSL_memory_free",
    "OPENSSL_memory_get_size",
    "OPENSSL_memory_realloc",
    "sdallocx",
];

/// A function of the proxy is no such need: the module looks for it when it is loaded, and says which is missing.
#[test]
fn it_needs_the_c_library_of_debian_12_and_nothing_else() {
    for module in modules() {
        let (_, needed) = symbols(&module);
        let mut newest = (0, 0);
        for name in &needed {
            let Some((_, version)) = name.split_once('@') else {
                assert!(OPTIONAL.contains(&name.as_str()), "{}: nobody has {name}", module.display());
                continue;
            };
            let version = version.trim_start_matches('@');
            if let Some(number) = version.strip_prefix("GLIBC_") {
                let (major, minor) = number.split_once('.').unwrap();
                let minor = minor.split('.').next().unwrap();
                let version: (u32, u32) = (major.parse().unwrap(), minor.parse().unwrap());
                assert!(version <= (2, 36), "{}: {name} is newer than Debian 12", module.display());
                newest = newest.max(version);
            } else {
                assert!(version.starts_with("GCC_"), "{}: {name}", module.display());
            }
        }
        assert!(newest > (2, 0), "{needed:?}");
        let dynamic = readelf("--dynamic", &module);
        for line in dynamic.lines().filter(|line| line.contains("(NEEDED)")) {
            let known =
                ["libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"];
            assert!(known.iter().any(|name| line.ends_with(&format!("[{name}]"))), "{line}");
        }
        assert!(dynamic.contains("NODELETE"), "the proxy may unload it under its own thread:\n{dynamic}");
    }
}

#[test]
fn it_is_stripped_and_names_no_folder_of_the_machine_that_built_it() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let home = std::env::home_dir().unwrap();
    for module in modules() {
        let sections = readelf("--sections", &module);
        assert!(!sections.contains(".symtab") && !sections.contains(".debug_"), "{sections}");
        let bytes = std::fs::read(&module).unwrap();
        for folder in [repository, &home] {
            // `/` and `/root` are part of other words.
            let folder = format!("{}/", folder.display());
            let found = bytes.windows(folder.len()).position(|window| window == folder.as_bytes());
            let shown =
                found.map(|at| String::from_utf8_lossy(&bytes[at..bytes.len().min(at + 120)]).into_owned());
            assert_eq!(shown, None, "{}", module.display());
        }
    }
}
