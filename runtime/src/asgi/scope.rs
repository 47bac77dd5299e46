//! The scope of a connection: a template, copied, and what the request adds.

use std::cell::RefCell;
use std::ffi::CStr;

use burrow_abi::{
    burrow_pair, burrow_request, burrow_var, slice, BURROW_LISTENER_PORT, BURROW_PATH_INFO,
    BURROW_QUERY_STRING, BURROW_REMOTE_ADDR, BURROW_REMOTE_PORT, BURROW_REQUEST_METHOD,
    BURROW_REQUEST_SCHEME, BURROW_REQUEST_URI, BURROW_SCRIPT_NAME, BURROW_SERVER_ADDR, BURROW_SERVER_NAME,
    BURROW_SERVER_PORT, BURROW_SERVER_PROTOCOL,
};
use pyo3_ffi as ffi;

use super::call::Call;
use super::http::OPTIONAL;
use super::keys::Keys;
use super::protocol::Protocol;
use super::running::Running;
use super::tls;
use crate::header_names::HeaderNames;
use crate::object::{
    bytes, dict, integer, interned, latin1, set_item, set_named, utf8, Object, Raised, Result,
};
use crate::same::Last;

/// What is the same for every request of an event loop, and what was made for the last one.
pub struct Template {
    http: Common,
    websocket: Common,
    asgi: Object,
    /// As [`Http::extensions`] numbers them.
    extensions: [Object; 1 << OPTIONAL.len()],
    websocket_extensions: Object,
    empty_bytes: Object,
    pub nothing: Object,
    names: RefCell<HeaderNames<Object>>,
    pub tls: tls::Known,
}

impl Template {
    pub fn new(keys: &Keys) -> Result<Template> {
        let asgi = dict()?;
        set_named(&asgi, c"version", &interned(c"3.0")?)?;
        set_named(&asgi, c"spec_version", &interned(c"2.5")?)?;
        // SAFETY: None is always there.
        let nothing = unsafe { Object::borrowed(ffi::Py_None()) };
        let http = dict()?;
        set_item(&http, keys.type_.as_ptr(), &interned(c"http")?)?;
        // Each request replaces these: so its copy never grows.
        for key in [
            &keys.asgi,
            &keys.http_version,
            &keys.method,
            &keys.scheme,
            &keys.path,
            &keys.raw_path,
            &keys.query_string,
            &keys.root_path,
            &keys.headers,
            &keys.client,
            &keys.server,
            &keys.state,
            &keys.extensions,
        ] {
            set_item(&http, key.as_ptr(), &nothing)?;
        }
        let websocket = copy(&http)?;
        set_item(&websocket, keys.type_.as_ptr(), &interned(c"websocket")?)?;
        set_item(&websocket, keys.subprotocols.as_ptr(), &nothing)?;
        // SAFETY: a live dict that has the key.
        if unsafe { ffi::PyDict_DelItem(websocket.as_ptr(), keys.method.as_ptr()) } != 0 {
            return Err(Raised);
        }
        let extensions = |which: usize| {
            let optional = OPTIONAL.into_iter().enumerate().filter(|(bit, _)| which >> bit & 1 == 1);
            let always = [c"http.response.pathsend", c"http.response.zerocopysend"];
            supported(always.into_iter().chain(optional.map(|(_, name)| name)))
        };
        Ok(Template {
            http: Common::new(http),
            websocket: Common::new(websocket),
            asgi,
            extensions: [extensions(0)?, extensions(1)?, extensions(2)?, extensions(3)?],
            websocket_extensions: supported([c"websocket.http.response"])?,
            empty_bytes: bytes(b"")?,
            nothing,
            names: RefCell::default(),
            tls: tls::Known::default(),
        })
    }
}

/// What the scopes of a protocol have in common, and what its entries were last made of.
struct Common {
    /// Never handed out, only copied.
    scope: Object,
    method: Last<(), 1>,
    scheme: Last<(), 1>,
    version: Last<(), 1>,
    root_path: Last<(), 1>,
    server: Last<(), 2>,
}

impl Common {
    fn new(scope: Object) -> Common {
        let [method, scheme, version, root_path] = Default::default();
        Common { scope, method, scheme, version, root_path, server: Last::default() }
    }
}

/// The scope of a call.
pub fn build(running: &Running, call: &Call) -> Result<Object> {
    let (keys, template) = (&running.keys, &running.template);
    let request = call.request().expect("the call begins");
    // SAFETY: the request's strings are there until its outcome is told.
    let var = |var: burrow_var| unsafe { request.vars[var as usize].bytes() };
    let socket = call.protocol.socket();
    let common = if socket.is_some() { &template.websocket } else { &template.http };
    let set_common = |last: &Last<(), 1>, key: &Object, bytes: &[u8], make: fn(&[u8]) -> Result<Object>| {
        last.get([bytes], || set_item(&common.scope, key.as_ptr(), &make(bytes)?))
    };
    set_common(&common.version, &keys.http_version, var(BURROW_SERVER_PROTOCOL), version)?;
    let scheme = match socket {
        None => var(BURROW_REQUEST_SCHEME),
        Some(_) if var(BURROW_REQUEST_SCHEME) == b"https" => b"wss",
        Some(_) => b"ws",
    };
    set_common(&common.scheme, &keys.scheme, scheme, latin1)?;
    set_common(&common.root_path, &keys.root_path, var(BURROW_SCRIPT_NAME), utf8)?;
    let address = if var(BURROW_SERVER_ADDR).is_empty() { BURROW_SERVER_NAME } else { BURROW_SERVER_ADDR };
    let port = if var(BURROW_LISTENER_PORT).is_empty() { BURROW_SERVER_PORT } else { BURROW_LISTENER_PORT };
    let (address, port) = (var(address), var(port));
    common.server.get([address, port], || {
        set_item(&common.scope, keys.server.as_ptr(), &server(template, address, port)?)
    })?;
    if socket.is_none() {
        set_common(&common.method, &keys.method, var(BURROW_REQUEST_METHOD), latin1)?;
    }
    let scope = copy(&common.scope)?;
    let set = |key: &Object, value: &Object| set_item(&scope, key.as_ptr(), value);
    set(&keys.asgi, &copy(&template.asgi)?)?;
    if let Some(socket) = socket {
        set(&keys.subprotocols, &texts(socket.subprotocols())?)?;
    }
    let extensions = copy(match &call.protocol {
        Protocol::WebSocket(_) => &template.websocket_extensions,
        Protocol::Http(http) => &template.extensions[http.extensions()],
    })?;
    if request.n_tls > 0 {
        set_item(&extensions, keys.tls.as_ptr(), &tls::describe(running, request)?)?;
    }
    set(&keys.extensions, &extensions)?;
    let (root, rest) = (var(BURROW_SCRIPT_NAME), var(BURROW_PATH_INFO));
    match root {
        b"" => set(&keys.path, &utf8(rest)?)?,
        root => set(&keys.path, &utf8(&[root, rest].concat())?)?,
    }
    set(&keys.raw_path, &bytes(raw_path(var(BURROW_REQUEST_URI)))?)?;
    match var(BURROW_QUERY_STRING) {
        b"" => set(&keys.query_string, &template.empty_bytes)?,
        query => set(&keys.query_string, &bytes(query)?)?,
    }
    set(&keys.headers, &headers(template, request)?)?;
    set(&keys.client, &client(template, var(BURROW_REMOTE_ADDR), var(BURROW_REMOTE_PORT))?)?;
    set(&keys.state, &copy(&call.application().state())?)?;
    Ok(scope)
}

/// A dict with an entry for each of the extensions.
fn supported<'a>(names: impl IntoIterator<Item = &'a CStr>) -> Result<Object> {
    let extensions = dict()?;
    for name in names {
        set_named(&extensions, name, &dict()?)?;
    }
    Ok(extensions)
}

fn copy(dict: &Object) -> Result<Object> {
    // SAFETY: a live dict.
    unsafe { Object::owned(ffi::PyDict_Copy(dict.as_ptr())) }
}

fn texts(texts: &[String]) -> Result<Object> {
    // SAFETY: a new list, each slot of which is filled.
    unsafe {
        let list = Object::owned(ffi::PyList_New(texts.len() as isize))?;
        for (index, text) in texts.iter().enumerate() {
            ffi::PyList_SET_ITEM(list.as_ptr(), index as isize, utf8(text.as_bytes())?.into_ptr());
        }
        Ok(list)
    }
}

/// "1.1" of "HTTP/1.1", "2" of "HTTP/2.0".
fn version(protocol: &[u8]) -> Result<Object> {
    let number = protocol.strip_prefix(b"HTTP/").unwrap_or(b"1.0");
    latin1(match number {
        [b'2'..=b'9', ..] => number.strip_suffix(b".0").unwrap_or(number),
        _ => number,
    })
}

/// The path of a request's target (RFC 9112, 3.2), as it was sent.
fn raw_path(target: &[u8]) -> &[u8] {
    let path = match target.windows(3).position(|part| part == b"://") {
        Some(scheme) if !target.starts_with(b"/") => {
            let authority = scheme + 3;
            let path = target[authority..].iter().position(|byte| matches!(byte, b'/' | b'?'));
            &target[path.map_or(target.len(), |path| authority + path)..]
        }
        _ => target,
    };
    let end = path.iter().position(|byte| *byte == b'?').unwrap_or(path.len());
    &path[..end]
}

/// None where the peer is no host: a UNIX socket's.
fn client(template: &Template, address: &[u8], port: &[u8]) -> Result<Object> {
    if address.is_empty() || address.starts_with(b"unix:") {
        return Ok(template.nothing.clone());
    }
    tuple2(latin1(address)?, integer(number(port))?)
}

/// The server's end of the connection; the path of a UNIX socket, which has no port.
fn server(template: &Template, address: &[u8], port: &[u8]) -> Result<Object> {
    match address.strip_prefix(b"unix:") {
        Some(path) => tuple2(utf8(path)?, template.nothing.clone()),
        None => tuple2(latin1(address)?, integer(number(port))?),
    }
}

fn number(digits: &[u8]) -> u64 {
    digits
        .iter()
        .filter(|digit| digit.is_ascii_digit())
        .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'))
}

/// As the scope has them.
fn name(received: &[u8]) -> Result<Object> {
    bytes(&received.to_ascii_lowercase())
}

/// As received; but what HTTP/2 says as :authority comes first.
fn headers(template: &Template, request: &burrow_request) -> Result<Object> {
    // SAFETY: as many pairs as it says, which are there; a new list, each slot of which is filled.
    unsafe {
        let received = slice(request.headers, request.n_headers);
        let list = Object::owned(ffi::PyList_New(received.len() as isize))?;
        let mut names = template.names.borrow_mut();
        let is_host = |header: &burrow_pair| header.name.bytes().eq_ignore_ascii_case(b"host");
        let has_authority = !request.vars[BURROW_SERVER_PROTOCOL as usize].bytes().starts_with(b"HTTP/1");
        let host = has_authority.then(|| received.iter().position(is_host)).flatten();
        let (before, rest) = received.split_at(host.unwrap_or_default());
        let in_order = rest.iter().take(1).chain(before).chain(rest.iter().skip(1));
        for (index, header) in in_order.enumerate() {
            let pair = tuple2(names.get(header.name.bytes(), name)?, bytes(header.value.bytes())?)?;
            ffi::PyList_SET_ITEM(list.as_ptr(), index as isize, pair.into_ptr());
        }
        Ok(list)
    }
}

fn tuple2(first: Object, second: Object) -> Result<Object> {
    // SAFETY: a new tuple of two, each of which is filled with an owned reference.
    unsafe {
        let pair = Object::owned(ffi::PyTuple_New(2))?;
        ffi::PyTuple_SET_ITEM(pair.as_ptr(), 0, first.into_ptr());
        ffi::PyTuple_SET_ITEM(pair.as_ptr(), 1, second.into_ptr());
        Ok(pair)
    }
}

#[cfg(test)]
mod tests {
    use super::raw_path;

    #[test]
    fn the_path_of_a_target() {
        assert_eq!(raw_path(b"/a%20b?c=/d"), b"/a%20b");
        assert_eq!(raw_path(b"http://host:80/a?b"), b"/a");
        assert_eq!(raw_path(b"http://host"), b"");
        assert_eq!(raw_path(b"/to?url=http://host/"), b"/to");
        assert_eq!(raw_path(b"*"), b"*");
    }
}
