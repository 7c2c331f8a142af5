//! What each filter costs, side by side with Envoy's native filters. See docs/benchmarks.md.

mod callgrind;
mod load;
mod proxy;
mod results;
mod tokens;
mod variants;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::tokens::Issuer;
use crate::variants::{BARE, BARE_GATEWAY, Workshop};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let done = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Into::into)
        .and_then(|runtime| tokio::task::LocalSet::new().block_on(&runtime, run()));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    let envoy = PathBuf::from(std::env::var_os("ENVOY_BIN").ok_or("ENVOY_BIN names no Envoy: run `make bench`")?);
    let workshop = Workshop {
        issuer: Issuer::read(&root.join("testdata/keys"))?,
        modules: root.join("target/filters"),
        empty: root.join("target/wasm32-wasip1/release/empty_sdk_filter.wasm"),
    };
    let only: Vec<String> = std::env::args().skip(1).collect();
    let mut variants = workshop.variants(6000)?;
    variants.retain(|v| {
        [BARE, BARE_GATEWAY].contains(&&*v.name) || only.is_empty() || only.iter().any(|o| v.name.contains(o))
    });
    let variants: Vec<_> = variants.iter().collect();
    callgrind::count(&envoy, &variants).await?;
    Ok(())
}
