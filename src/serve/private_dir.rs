//! The private directory of one `burrow serve`.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::say;

/// A new directory that is removed, with all that is in it, when this is dropped.
pub struct PrivateDir(PathBuf);

impl PrivateDir {
    pub fn create(parent: &Path, mode: u32) -> io::Result<PrivateDir> {
        let dir = PrivateDir(nix::unistd::mkdtemp(&parent.join("burrow-serve-XXXXXX"))?);
        fs::set_permissions(&dir.0, Permissions::from_mode(mode))?;
        Ok(dir)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            say(&format!("cannot remove {}: {error}", self.0.display()));
        }
    }
}
