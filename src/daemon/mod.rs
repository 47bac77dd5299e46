//! Daemon mode as the server's processes see it.

mod begun;
pub mod client;
pub mod ending;
mod exchange;
pub mod file;
mod group;
mod inbox;
mod incoming;
mod links;
mod nginx;
mod outgoing;
pub mod pool;
mod relay;
mod response;
pub mod socket;
mod tunnel;
mod watch;

use std::path::{Path, PathBuf};

pub use exchange::serve;
pub use group::Group;

/// The longest path that a socket can have, without the zero byte behind it.
pub const LONGEST_SOCKET_PATH: usize = 107;

/// The folder of a server instance's sockets.
pub fn folder(prefix: &Path, instance: &str) -> PathBuf {
    let mut folder = prefix.as_os_str().to_owned();
    folder.push(".");
    folder.push(instance);
    folder.into()
}

/// Where the workers of a process group take connections, from one reload to the next.
pub fn socket_path(prefix: &Path, instance: &str, group: &str) -> PathBuf {
    folder(prefix, instance).join(format!("{group}.sock"))
}

/// Where a server instance's manager takes those of workers and commands.
pub fn control_path(prefix: &Path, instance: &str) -> PathBuf {
    folder(prefix, instance).join("control")
}

#[cfg(test)]
mod exchange_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_on_disk() {
        let prefix = Path::new("/run/wsgi");
        assert_eq!(socket_path(prefix, "0f", "a.shop"), Path::new("/run/wsgi.0f/a.shop.sock"));
        assert_eq!(control_path(prefix, "0f"), Path::new("/run/wsgi.0f/control"));
    }
}
