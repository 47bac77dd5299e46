//! Lines in the server's error log, from processes that are not the server's own: its style, and no more.

use std::ffi::CStr;
use std::process;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How a line begins: when, how bad, and which process and thread. `server` is "apache" or "nginx".
pub fn beginning(server: &str, level: &str, thread: i32) -> String {
    beginning_at(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(), server, level, thread)
}

fn beginning_at(now: Duration, server: &str, level: &str, thread: i32) -> String {
    let pid = process::id();
    let local = |format| local_time(now.as_secs() as i64, format);
    if server == "nginx" {
        return format!("{} [{level}] {pid}#{thread}: ", local(c"%Y/%m/%d %H:%M:%S"));
    }
    let (time, micros, year) = (local(c"%a %b %d %H:%M:%S"), now.subsec_micros(), local(c"%Y"));
    format!("[{time}.{micros:06} {year}] [wsgi:{level}] [pid {pid}:tid {thread}] ")
}

fn local_time(seconds: i64, format: &CStr) -> String {
    let mut text = [0u8; 64];
    // SAFETY: both calls write into memory of ours whose size they know; a zeroed `tm` is valid.
    let length = unsafe {
        let mut time: libc::tm = std::mem::zeroed();
        libc::localtime_r(&seconds, &mut time);
        libc::strftime(text.as_mut_ptr().cast(), text.len(), format.as_ptr(), &time)
    };
    String::from_utf8_lossy(&text[..length]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_look_like_the_servers() {
        let (pid, now) = (process::id(), Duration::from_micros(86_400_000_042));
        let year = local_time(86_400, c"%Y");
        let apache = beginning_at(now, "apache", "error", 7);
        assert!(apache.ends_with(&format!(".000042 {year}] [wsgi:error] [pid {pid}:tid 7] ")), "{apache}");
        let nginx = beginning_at(now, "nginx", "notice", 7);
        assert!(nginx.starts_with(&format!("{year}/")), "{nginx}");
        assert!(nginx.ends_with(&format!(" [notice] {pid}#7: ")), "{nginx}");
    }
}
