//! The error log, which is descriptor 2: lines as the server's own.

use std::ffi::{c_int, c_void};
use std::io::{self, Write};
use std::sync::OnceLock;

use burrow_abi::{
    burrow_level, burrow_request, burrow_str, BURROW_CONNECTION_ID, BURROW_LOG_CRIT, BURROW_LOG_ERR,
    BURROW_LOG_INFO, BURROW_LOG_NOTICE, BURROW_LOG_WARN, BURROW_REMOTE_ADDR, BURROW_REMOTE_PORT,
    BURROW_REQUEST_METHOD, BURROW_REQUEST_URI, BURROW_SERVER_NAME, BURROW_SERVER_PROTOCOL,
};
use burrow_daemon::log;

use super::{thread_id, worker};

/// [`burrow_abi::HostApi::log`].
pub unsafe extern "C" fn from_runtime(exchange: *mut c_void, level: c_int, text: burrow_str) {
    // SAFETY: null, or an exchange that has not ended, and begins with its request; the text is there for this
    // call.
    unsafe {
        let request = exchange.cast::<&burrow_request>().as_ref().copied();
        write(request, level as burrow_level, text.bytes());
    }
}

/// A line of our own, about the process or the request that this thread serves.
pub fn error(text: &str) {
    crate::log::line(BURROW_LOG_ERR, format!("burrow: {text}").as_bytes());
}

/// As `error`, of what an application may have wanted.
pub fn warn(text: &str) {
    crate::log::line(BURROW_LOG_WARN, format!("burrow: {text}").as_bytes());
}

/// Whose style lines have.
static SERVER: OnceLock<String> = OnceLock::new();

/// As soon as that is known; `write` needs more.
pub fn set_style(server: &str) {
    // A process that was forked has that of its template.
    let _ = SERVER.set(server.to_owned());
}

/// The process does not get as far as to be a worker.
pub fn cannot_start(why: &str) {
    let beginning = SERVER.get().map(|server| log::beginning(server, "error", thread_id()));
    let line = format!("{}burrow: a worker cannot start: {why}\n", beginning.unwrap_or_default());
    let _ = io::stderr().write_all(line.as_bytes());
}

fn write(request: Option<&burrow_request>, level: burrow_level, text: &[u8]) {
    let config = &worker().config;
    if config.log_level != 0 && level > config.log_level {
        return;
    }
    let mut line = Vec::with_capacity(text.len() + 256);
    line.extend_from_slice(log::beginning(&config.server, name(level), thread_id()).as_bytes());
    match &config.server[..] {
        "nginx" => nginx(&mut line, request, text),
        _ => apache(&mut line, request, text),
    }
    line.push(b'\n');
    // In one piece, as others write to the same file. There is nowhere else to say that it cannot be.
    let _ = io::stderr().write_all(&line);
}

fn apache(line: &mut Vec<u8>, request: Option<&burrow_request>, text: &[u8]) {
    if let Some(request) = request {
        let [address, port] = [BURROW_REMOTE_ADDR, BURROW_REMOTE_PORT].map(|var| value(request, var));
        line.extend_from_slice(&[b"[remote ", address, b":", port, b"] "].concat());
    }
    line.extend_from_slice(text);
}

fn nginx(line: &mut Vec<u8>, request: Option<&burrow_request>, text: &[u8]) {
    let Some(request) = request else { return line.extend_from_slice(text) };
    let value = |var| value(request, var);
    line.extend_from_slice(&[b"*", value(BURROW_CONNECTION_ID), b" ", text].concat());
    for (name, text) in [(", client: ", BURROW_REMOTE_ADDR), (", server: ", BURROW_SERVER_NAME)] {
        line.extend_from_slice(&[name.as_bytes(), value(text)].concat());
    }
    let asked = [BURROW_REQUEST_METHOD, BURROW_REQUEST_URI, BURROW_SERVER_PROTOCOL].map(value).join(&b' ');
    line.extend_from_slice(&[b", request: \"", &asked[..], b"\""].concat());
    if let Some(host) = host(request) {
        line.extend_from_slice(&[b", host: \"", host, b"\""].concat());
    }
}

fn value(request: &burrow_request, var: u32) -> &[u8] {
    // SAFETY: the request is being served, so its strings are there.
    unsafe { request.vars[var as usize].bytes() }
}

fn host(request: &burrow_request) -> Option<&[u8]> {
    let headers = match request.n_headers {
        0 => &[][..],
        // SAFETY: the request is being served, so its headers are there, as many as it says.
        n => unsafe { std::slice::from_raw_parts(request.headers, n) },
    };
    // SAFETY: as above.
    let named = |name: &burrow_str| unsafe { name.bytes() }.eq_ignore_ascii_case(b"Host");
    // SAFETY: as above.
    headers.iter().find(|header| named(&header.name)).map(|header| unsafe { header.value.bytes() })
}

fn name(level: burrow_level) -> &'static str {
    match level {
        BURROW_LOG_CRIT => "crit",
        BURROW_LOG_ERR => "error",
        BURROW_LOG_WARN => "warn",
        BURROW_LOG_NOTICE => "notice",
        BURROW_LOG_INFO => "info",
        _ => "debug",
    }
}
