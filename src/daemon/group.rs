//! A process group as a server's process reaches it.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;

use super::links::Links;
use super::socket_path;
use crate::manager;
use crate::settings::process_group::ProcessGroup;
use crate::settings::Instance;

/// A process group: where its workers listen, and how long they are waited for.
pub struct Group {
    pub name: String,
    prefix: PathBuf,
    /// Where its workers listen, once that has been asked for.
    pub(super) socket: OnceLock<PathBuf>,
    /// Workers, and threads of each.
    pub processes: usize,
    pub threads: usize,
    /// Until a request that no worker can be sent is answered 503.
    pub connect_timeout: Duration,
    /// Until a request that no thread has taken is answered 504; None: never.
    pub queue_timeout: Option<Duration>,
    /// For one read or write between server and worker.
    pub socket_timeout: Duration,
    /// For one write to the client; None: the server's.
    pub response_socket_timeout: Option<Duration>,
    /// Without output, then what there is leaves.
    pub response_flush_delay: Duration,
    /// Bytes of an answer's longest header.
    pub header_buffer_size: usize,
    /// Bytes of an answer between two flushes, at most.
    pub response_buffer_size: u64,
    /// Bytes of the socket; 0: the system's.
    pub send_buffer_size: usize,
    pub receive_buffer_size: usize,
    /// Those of a server that waits for one request on each thread.
    pub links: Links,
}

impl Group {
    pub fn new(group: &ProcessGroup, instance: &Instance) -> Group {
        let seconds = |option| Duration::from_secs(number(group, option));
        let positive = |option| Some(seconds(option)).filter(|duration| !duration.is_zero());
        let size =
            |option, usual| Some(number(group, option)).filter(|size: &u64| *size > 0).unwrap_or(usual);
        let socket_timeout = positive("socket-timeout");
        let (processes, threads) = (number(group, "processes"), number(group, "threads"));
        Group {
            name: group.name.clone(),
            prefix: instance.prefix.clone(),
            socket: OnceLock::new(),
            processes,
            threads,
            connect_timeout: seconds("connect-timeout"),
            queue_timeout: positive("queue-timeout"),
            socket_timeout: socket_timeout.unwrap_or(instance.timeout),
            response_socket_timeout: positive("response-socket-timeout").or(socket_timeout),
            response_flush_delay: Duration::from_millis(number(group, "response-flush-delay")),
            header_buffer_size: size("header-buffer-size", 32 << 10) as usize,
            response_buffer_size: size("response-buffer-size", 8 << 20),
            send_buffer_size: number(group, "send-buffer-size"),
            receive_buffer_size: number(group, "receive-buffer-size"),
            links: Links::new(processes, threads),
        }
    }

    /// Where its workers listen; None where this server has no manager.
    pub fn socket(&self) -> Option<&Path> {
        if self.socket.get().is_none() {
            let _ = self.socket.set(socket_path(&self.prefix, &manager::instance()?, &self.name));
        }
        self.socket.get().map(PathBuf::as_path)
    }
}

/// 0 where nothing is written for an option that has no default.
fn number<T: FromStr + Default>(group: &ProcessGroup, option: &str) -> T {
    group.value(option).parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(options: &[(&'static str, &'static str)]) -> Group {
        let group = ProcessGroup::new("shop", options.iter().copied()).unwrap();
        Group::new(&group, &Instance { timeout: Duration::from_secs(60), ..Instance::default() })
    }

    #[test]
    fn defaults() {
        let shop = group(&[]);
        assert_eq!((shop.threads, shop.connect_timeout), (15, Duration::from_secs(15)));
        assert_eq!((shop.socket_timeout, shop.response_socket_timeout), (Duration::from_secs(60), None));
        assert_eq!(
            (shop.response_flush_delay, shop.response_buffer_size),
            (Duration::from_millis(5), 8 << 20)
        );
        assert!(shop.socket().is_none(), "no server has been configured");
    }

    #[test]
    fn options() {
        let shop = group(&[("socket-timeout", "7"), ("queue-timeout", "3"), ("response-flush-delay", "0")]);
        assert_eq!(
            (shop.socket_timeout, shop.queue_timeout),
            (Duration::from_secs(7), Some(Duration::from_secs(3)))
        );
        assert_eq!(shop.response_socket_timeout, Some(Duration::from_secs(7)));
        assert!(shop.response_flush_delay.is_zero());
    }
}
