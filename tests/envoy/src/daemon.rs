use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// A program with a folder of its own. Both go away with the value, with a panic and with the death of this
/// process.
#[derive(Debug)]
pub struct Daemon {
    command: Command,
    process: Child,
    watchdog: Child,
    folder: PathBuf,
}

/// Ends the process whose number is in the folder, and removes the folder, when its input ends.
const WATCHDOG: &str =
    r#"trap "" INT TERM HUP; cat >/dev/null; kill -9 "$(cat "$1/pid")" 2>/dev/null; rm -rf "$1""#;

impl Daemon {
    /// Starts the command that `command` makes of the folder, whose name begins with `name`; what it prints
    /// goes to the file `output` there.
    pub fn start(name: &str, command: impl FnOnce(&Path) -> io::Result<Command>) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir()?.keep();
        let watchdog = Command::new("sh")
            .args(["-c", WATCHDOG, "sh"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        if watchdog.is_err() {
            let _ = fs::remove_dir_all(&folder);
        }
        // From here on the end of its input cleans up.
        let watchdog = watchdog?;
        let output = File::create(folder.join("output"))?;
        let mut command = command(&folder)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let process = spawn(&mut command, &folder)?;
        Ok(Self { command, process, watchdog, folder })
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Starts it again, in the same folder.
    pub fn restart(&mut self) -> io::Result<()> {
        self.kill();
        self.process = spawn(&mut self.command, &self.folder)?;
        Ok(())
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.process.try_wait().is_ok_and(|status| status.is_some())
    }

    /// How it has ended, if it has.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it has printed.
    pub fn output(&self) -> String {
        fs::read_to_string(self.folder.join("output")).unwrap_or_default()
    }
}

fn spawn(command: &mut Command, folder: &Path) -> io::Result<Child> {
    let process = command.spawn()?;
    fs::write(folder.join("pid"), process.id().to_string())?;
    Ok(process)
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let output = self.output();
        if std::thread::panicking() && !output.is_empty() {
            eprintln!("--- output of process {} ---\n{output}\n---", self.id());
        }
        self.kill();
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}
