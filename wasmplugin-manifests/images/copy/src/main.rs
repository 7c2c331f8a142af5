//! The program in the image of the native module, which has no shell: copies the module into a folder, for nodes that cannot mount
//! an image as a volume. Usage: copy FILE FOLDER

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let done = match arguments.as_slice() {
        [file, folder] => copy(Path::new(file), Path::new(folder)),
        _ => Err(io::Error::other("expected a file and a folder")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("copy: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Copies a file into a folder, where it appears as a whole.
fn copy(file: &Path, folder: &Path) -> io::Result<()> {
    let named = |path: &Path, error| io::Error::other(format!("{}: {error}", path.display()));
    let name = file.file_name().ok_or_else(|| io::Error::other("expected a file"))?;
    let to = folder.join(name);
    let new = to.with_extension("new");
    fs::copy(file, &new).map_err(|error| named(&new, error))?;
    fs::rename(&new, &to).map_err(|error| named(&to, error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::restriction)]
    use super::*;

    #[test]
    fn a_file_takes_the_place_of_another() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = from.path().join("module.so");
        for content in ["old", "new"] {
            fs::write(&file, content).unwrap();
            copy(&file, to.path()).unwrap();
        }
        let all: Vec<_> = fs::read_dir(to.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(all, [to.path().join("module.so")]);
        assert_eq!(fs::read_to_string(&all[0]).unwrap(), "new");
    }

    #[test]
    fn what_cannot_be_written_is_named() {
        let from = tempfile::tempdir().unwrap();
        let file = from.path().join("module.so");
        fs::write(&file, "module").unwrap();
        let error = copy(&file, Path::new("/no/such/folder")).unwrap_err();
        assert!(error.to_string().starts_with("/no/such/folder/module.new: "), "{error}");
    }
}
