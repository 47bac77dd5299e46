//! script-user and script-group: who has to own a script, and its folder, for it to be run.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::worker;

/// Why this script must not be run; None where it may be.
pub fn refusal(target: &[u8]) -> Option<String> {
    let config = &worker().config;
    if (config.script_user, config.script_group) == (None, None) || !target.starts_with(b"/") {
        return None;
    }
    let script = Path::new(OsStr::from_bytes(target));
    let folder = script.parent().unwrap_or(Path::new("/"));
    [script, folder].into_iter().find_map(|path| {
        let why = match fs::metadata(path) {
            Ok(metadata) => judge(&metadata, config.script_user, config.script_group)?.into(),
            Err(error) => error.to_string(),
        };
        Some(format!("'{}' is not run: '{}': {why}", script.display(), path.display()))
    })
}

fn judge(file: &Metadata, user: Option<u32>, group: Option<u32>) -> Option<&'static str> {
    if user.is_some_and(|user| user != file.uid()) {
        return Some("it does not belong to script-user");
    }
    if group.is_some_and(|group| group != file.gid()) {
        return Some("it does not belong to script-group");
    }
    // Members of script-group are trusted, those of any other group are not.
    let others = if group.is_some() { 0o002 } else { 0o022 };
    (file.mode() & others != 0).then_some("others than its owner may write to it")
}
