//! Follows what the proxy writes: access log, log, spans, memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use envoy::SpanCollector;
use serde_json::Value;
use soak::judge::Logged;

use crate::stage::{Stage, parameter};

/// Reads whole lines of a file that grows.
#[derive(Debug)]
pub(crate) struct Follower {
    file: PathBuf,
    read: u64,
}

impl Follower {
    pub(crate) fn new(file: PathBuf) -> Self {
        Self { file, read: 0 }
    }

    /// The lines since the last call.
    pub(crate) fn lines(&mut self) -> Vec<String> {
        let mut bytes = Vec::new();
        let read = File::open(&self.file).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.read))?;
            file.read_to_end(&mut bytes)
        });
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        if read.is_err() || whole == 0 {
            return Vec::new();
        }
        self.read += u64::try_from(whole).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..whole]).lines().map(str::to_owned).collect()
    }
}

/// Tells each request what the access log says of it, and counts the details of all.
pub(crate) fn access_log(stage: &Stage, follower: &mut Follower, details: &mut BTreeMap<String, u64>) {
    for line in follower.lines() {
        let Ok(entry) = serde_json::from_str::<Value>(&line) else { continue };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        *details.entry(text(&entry["details"]).unwrap_or_default()).or_default() += 1;
        let Some(id) = entry["path"].as_str().and_then(|path| parameter(path, "soak")?.parse().ok()) else {
            continue;
        };
        let published = &entry["filter_state"];
        let logged = Logged {
            status: entry["status"].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or(0),
            details: text(&entry["details"]).unwrap_or_default(),
            limit: text(&published["ratelimit.limit"]),
            user: text(&published["tag.user.id"]),
            version: text(&published["tag.config.version"]),
        };
        stage.note(id, |record| record.logged = Some(logged));
    }
}

/// Tells each request what its span says.
pub(crate) fn spans(stage: &Stage, collector: &SpanCollector) -> u64 {
    let mut count = 0;
    for span in collector.take_spans() {
        let Some(id) =
            span.attributes.get("soak.path").and_then(|path| parameter(path, "soak")?.parse().ok())
        else {
            continue;
        };
        count += 1;
        let user = span.attributes.get("user.id").filter(|user| *user != "-").cloned();
        stage.note(id, |record| record.span = Some(user));
    }
    count
}

/// What the log says of VMs that failed, and of hooks of the native module that panicked.
pub(crate) fn failures(follower: &mut Follower) -> Vec<String> {
    let failed = |line: &String| {
        let in_vm = line.contains("[wasm]")
            && ((line.contains("Function: proxy_") && line.contains("failed"))
                || line.contains("Uncaught ")
                || line.contains("panicked at"));
        let in_native = line.contains("[dynamic_modules]") && line.contains("panic");
        in_vm || in_native
    };
    follower.lines().into_iter().filter(failed).collect()
}

/// Resident memory in MB, without the pages of files.
pub(crate) fn memory(process: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kilobytes: u32 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(f64::from(kilobytes) / 1024.0)
}
