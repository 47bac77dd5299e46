//! `--reload`: notices when a Python file of the application changes.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

const INTERVAL: Duration = Duration::from_millis(500);

type Snapshot = HashMap<PathBuf, (SystemTime, u64)>;

/// Calls `changed` with a file that was changed, added or removed, for as long as it returns true.
pub fn watch(dirs: Vec<PathBuf>, script: Option<PathBuf>, changed: impl Fn(&Path) -> bool + Send + 'static) {
    thread::spawn(move || {
        let mut before = snapshot(&dirs, script.as_deref());
        loop {
            thread::sleep(INTERVAL);
            let now = snapshot(&dirs, script.as_deref());
            if let Some(file) = difference(&before, &now) {
                if !changed(file) {
                    return;
                }
            }
            before = now;
        }
    });
}

fn difference<'a>(before: &'a Snapshot, now: &'a Snapshot) -> Option<&'a Path> {
    let differs = now.iter().find(|(file, state)| before.get(*file) != Some(state));
    let removed = || before.iter().find(|(file, _)| !now.contains_key(*file));
    differs.or_else(removed).map(|(file, _)| file.as_path())
}

fn snapshot(dirs: &[PathBuf], script: Option<&Path>) -> Snapshot {
    let mut files = Snapshot::new();
    for dir in dirs {
        collect(dir, &mut files);
    }
    if let Some((script, state)) = script.and_then(|script| Some((script, state(script)?))) {
        files.insert(script.to_owned(), state);
    }
    files
}

/// The Python files below a directory, without hidden ones and virtual environments.
fn collect(dir: &Path, files: &mut Snapshot) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let Ok(kind) = entry.file_type() else { continue };
        if name.starts_with('.') || name == "__pycache__" || name == "node_modules" {
            continue;
        }
        if kind.is_dir() {
            if !path.join("pyvenv.cfg").exists() {
                collect(&path, files);
            }
        } else if name.ends_with(".py") {
            if let Some(state) = state(&path) {
                files.insert(path, state);
            }
        }
    }
}

fn state(file: &Path) -> Option<(SystemTime, u64)> {
    let metadata = fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

#[cfg(test)]
mod tests {
    use super::super::private_dir::PrivateDir;
    use super::*;

    #[test]
    fn sees_what_matters() {
        let dir = PrivateDir::create(&std::env::temp_dir(), 0o700).unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        };
        let script = write("app.wsgi", "");
        let module = write("package/module.py", "1");
        write("venv/pyvenv.cfg", "");
        let look = || snapshot(&[dir.path().to_owned()], Some(&script));
        let first = look();
        write("venv/lib/module.py", "");
        write(".hidden/module.py", "");
        write("notes.txt", "");
        assert_eq!(difference(&first, &look()), None);
        write("package/module.py", "22");
        assert_eq!(difference(&first, &look()), Some(&*module));
        let second = look();
        write("app.wsgi", "3");
        assert_eq!(difference(&second, &look()), Some(&*script));
        let third = look();
        fs::remove_file(&module).unwrap();
        assert_eq!(difference(&third, &look()), Some(&*module));
    }
}
