//! The environ (PEP 3333): a template for each application, copied, and what the request adds.

use std::ffi::CStr;
use std::sync::OnceLock;

use burrow_abi::*;
use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use super::call::Call;
use super::input;
use crate::app::App;
use crate::bootstrap::State;
use crate::host::host;
use crate::httpd;
use crate::module;
use crate::object::{
    boolean, dict, float, fs_decoded, integer, integers, interned, latin1, seconds, set_item, set_named,
    Object, Raised, Result,
};
use crate::observe::thread_id;

const VARS: usize = BURROW_VAR_COUNT as usize;

/// The names of `burrow_var`, in its order.
const VAR_NAMES: [&CStr; VARS] = [
    c"REQUEST_METHOD",
    c"REQUEST_URI",
    c"SCRIPT_NAME",
    c"PATH_INFO",
    c"QUERY_STRING",
    c"SERVER_PROTOCOL",
    c"REQUEST_SCHEME",
    c"SERVER_NAME",
    c"SERVER_PORT",
    c"SERVER_ADDR",
    c"REMOTE_ADDR",
    c"REMOTE_PORT",
    c"REMOTE_USER",
    c"AUTH_TYPE",
    c"DOCUMENT_ROOT",
    c"SCRIPT_FILENAME",
    c"SERVER_SOFTWARE",
    c"mod_wsgi.request_handler",
    c"mod_wsgi.listener_host",
    c"mod_wsgi.listener_port",
    c"mod_wsgi.request_id",
    c"mod_wsgi.connection_id",
];

/// Interned keys, one set for each interpreter.
pub struct Keys {
    vars: [Object; VARS],
    url_scheme: Object,
    script_name: Object,
    path_info: Object,
    input: Object,
    thread_id: Object,
    request_start: Object,
    queue_start: Object,
    daemon_start: Object,
    application_start: Object,
}

impl Keys {
    pub fn new() -> Result<Keys> {
        let vars = VAR_NAMES.iter().map(|name| interned(name)).collect::<Result<Vec<_>>>()?;
        Ok(Keys {
            vars: vars.try_into().unwrap_or_else(|_| unreachable!("as many as VAR_NAMES")),
            url_scheme: interned(c"wsgi.url_scheme")?,
            script_name: interned(c"mod_wsgi.script_name")?,
            path_info: interned(c"mod_wsgi.path_info")?,
            input: interned(c"wsgi.input")?,
            thread_id: interned(c"mod_wsgi.thread_id")?,
            request_start: interned(c"mod_wsgi.request_start")?,
            queue_start: interned(c"mod_wsgi.queue_start")?,
            daemon_start: interned(c"mod_wsgi.daemon_start")?,
            application_start: interned(c"mod_wsgi.application_start")?,
        })
    }

    /// The second key that has a variable's value.
    fn twin(&self, var: usize) -> Option<&Object> {
        match var as burrow_var {
            BURROW_REQUEST_SCHEME => Some(&self.url_scheme),
            BURROW_SCRIPT_NAME => Some(&self.script_name),
            BURROW_PATH_INFO => Some(&self.path_info),
            _ => None,
        }
    }
}

/// What is the same for every request of an application.
pub struct Template {
    /// Never handed out, only copied.
    fixed: Object,
    learned: OnceLock<Learned>,
}

/// The fixed part with the variables and parameters of the first request. Other requests set only what differs,
/// which replaces a value and so never makes the dict grow.
struct Learned {
    /// Never handed out, only copied.
    dict: Object,
    values: [Option<Box<[u8]>>; VARS],
    params: Vec<Param>,
    thread: u32,
}

impl Template {
    pub fn new(app: &App, state: &State) -> Result<Template> {
        let fixed = dict()?;
        let set = |key: &CStr, value: &Object| set_named(&fixed, key, value);
        // SAFETY: borrowed from the interpreter; may be absent.
        let errors = unsafe { ffi::PySys_GetObject(c"__stderr__".as_ptr()) };
        if !errors.is_null() {
            // SAFETY: a live object.
            set(c"wsgi.errors", unsafe { &Object::borrowed(errors) })?;
        }
        set(c"wsgi.version", &integers(&[1, 0])?)?;
        set(c"wsgi.multithread", &boolean(app.multithread))?;
        set(c"wsgi.multiprocess", &boolean(host().multiprocess))?;
        set(c"wsgi.run_once", &boolean(host().run_once))?;
        set(c"wsgi.input_terminated", &boolean(true))?;
        set(c"wsgi.file_wrapper", &state.file_wrapper_type)?;
        set(c"wsgi.input", &state.empty_input)?;
        set(c"mod_wsgi.version", &module::version()?)?;
        set(c"mod_wsgi.process_group", &latin1(&host().process_group)?)?;
        set(c"mod_wsgi.application_group", &latin1(&app.group)?)?;
        set(c"mod_wsgi.callable_object", &latin1(&app.callable)?)?;
        set(c"mod_wsgi.handler_script", &latin1(b"")?)?;
        set(c"mod_wsgi.queue_start", &float(0.0)?)?;
        set(c"mod_wsgi.daemon_start", &float(0.0)?)?;
        if let Some(apache) = host().apache() {
            set(c"apache.version", &integers(&apache.version.map(u64::from))?)?;
        }
        let template = Template { fixed, learned: OnceLock::new() };
        template.name_process()?;
        Ok(template)
    }

    /// Before its first request, in the process that it is for. Called attached.
    pub fn name_process(&self) -> Result<()> {
        let pid = latin1(std::process::id().to_string().as_bytes())?;
        set_named(&self.fixed, c"mod_wsgi.server_pid", &pid)
    }

    /// The template to copy. No Python code runs between the look and the copy.
    fn learned(&self, state: &State, call: &Call) -> Result<&Learned> {
        if let Some(learned) = self.learned.get() {
            return Ok(learned);
        }
        let dict = copy(&self.fixed)?;
        let mut values = [const { None }; VARS];
        for (var, given) in call.request.vars.iter().enumerate() {
            // SAFETY: the request's strings live as long as the call.
            let value = unsafe { given.bytes() };
            if !given.is_absent() {
                set_var(state, &dict, var, value)?;
                values[var] = Some(value.into());
            }
        }
        let thread = thread_id();
        set_item(&dict, state.keys.thread_id.as_ptr(), &integer(thread.into())?)?;
        add_moments(state, &dict, call)?;
        let params = learn_params(&dict, call.request)?;
        make_room(&dict)?;
        // Another thread may have been quicker, if making the strings let it run.
        Ok(self.learned.get_or_init(|| Learned { dict, values, params, thread }))
    }
}

/// CPython's dicts of up to 42 keys grow at the next one, to room for 85.
const GROWN: isize = 43;

/// Makes the dict's table large enough for headers and further variables too: copies have one of that size,
/// and do not grow in every request.
fn make_room(dict: &Object) -> Result<()> {
    let mut spare = Vec::new();
    // SAFETY: a live dict.
    while unsafe { ffi::PyDict_Size(dict.as_ptr()) } < GROWN {
        let key = latin1(format!("spare{}", spare.len()).as_bytes())?;
        set_item(dict, key.as_ptr(), &key)?;
        spare.push(key);
    }
    spare.iter().try_for_each(|key| delete(dict, key))
}

fn copy(dict: &Object) -> Result<Object> {
    // SAFETY: a live dict.
    unsafe { Object::owned(ffi::PyDict_Copy(dict.as_ptr())) }
}

/// The environ of a call, and its `wsgi.input` if the request has a body.
pub fn build(state: &State, template: &Template, call: &Call) -> Result<(Option<Object>, Object)> {
    let request = call.request;
    let Learned { dict, values, params, thread } = template.learned(state, call)?;
    let environ = copy(dict)?;
    for (var, (given, known)) in request.vars.iter().zip(values).enumerate() {
        // SAFETY: the request's strings live as long as the call.
        let value = (!given.is_absent()).then(|| unsafe { given.bytes() });
        match (value, known) {
            (Some(value), Some(known)) if same(value, known) => continue,
            (None, None) => continue,
            _ => {}
        }
        match value {
            Some(value) => set_var(state, &environ, var, value)?,
            None => delete(&environ, &state.keys.vars[var])?,
        }
    }
    if thread_id() != *thread {
        set_item(&environ, state.keys.thread_id.as_ptr(), &integer(thread_id().into())?)?;
    }
    add_moments(state, &environ, call)?;
    add_headers(state, &environ, request)?;
    set_params(&environ, request, params)?;
    httpd::add_request_rec(&environ)?;
    let input = input::new(state, call)?;
    if let Some(input) = &input {
        set_item(&environ, state.keys.input.as_ptr(), input)?;
    }
    Ok((input, environ))
}

fn set_var(state: &State, environ: &Object, var: usize, value: &[u8]) -> Result<()> {
    let text = match var as burrow_var {
        BURROW_DOCUMENT_ROOT | BURROW_SCRIPT_FILENAME => fs_decoded(value)?,
        _ => latin1(value)?,
    };
    set_item(environ, state.keys.vars[var].as_ptr(), &text)?;
    match state.keys.twin(var) {
        Some(twin) => set_item(environ, twin.as_ptr(), &text),
        None => Ok(()),
    }
}

/// When it came, was handed to a process group and taken there, and when the application is called.
fn add_moments(state: &State, environ: &Object, call: &Call) -> Result<()> {
    let keys = &state.keys;
    let request = call.request;
    if request.daemon_start != 0 {
        set_item(environ, keys.queue_start.as_ptr(), &seconds(request.queue_start)?)?;
        set_item(environ, keys.daemon_start.as_ptr(), &seconds(request.daemon_start)?)?;
    }
    set_item(environ, keys.request_start.as_ptr(), &seconds(request.request_start)?)?;
    set_item(environ, keys.application_start.as_ptr(), &seconds(call.started)?)
}

fn delete(environ: &Object, key: &Object) -> Result<()> {
    // SAFETY: live objects; the key is there, since the template has it.
    match unsafe { ffi::PyDict_DelItem(environ.as_ptr(), key.as_ptr()) } {
        0 => Ok(()),
        _ => Err(Raised),
    }
}

/// A parameter as the template has it.
struct Param {
    name: Box<[u8]>,
    value: Box<[u8]>,
    key: Object,
}

/// The parameters of a request: those of the server's configuration, which are mostly the same for all requests.
fn params(request: &burrow_request) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
    // SAFETY: as many pairs as it says, which live as long as the call.
    let pairs = unsafe { slice(request.params, request.n_params) };
    // SAFETY: as above.
    pairs.iter().map(|pair| unsafe { (pair.name.bytes(), pair.value.bytes()) })
}

/// Adds a request's parameters to the template, or none where one of them takes the place of something else.
fn learn_params(dict: &Object, request: &burrow_request) -> Result<Vec<Param>> {
    let mut learned = Vec::with_capacity(request.n_params);
    for (name, value) in params(request) {
        let key = latin1(name)?;
        // SAFETY: live objects.
        let is_there = unsafe { ffi::PyDict_Contains(dict.as_ptr(), key.as_ptr()) } != 0;
        if is_there || may_be_elsewhere(name) {
            learned.iter().try_for_each(|param: &Param| delete(dict, &param.key))?;
            return Ok(Vec::new());
        }
        set_item(dict, key.as_ptr(), &latin1(value)?)?;
        learned.push(Param { name: name.into(), value: value.into(), key });
    }
    Ok(learned)
}

/// Whether a variable or a header may have this name.
fn may_be_elsewhere(name: &[u8]) -> bool {
    name.starts_with(b"HTTP_")
        || [&b"CONTENT_TYPE"[..], b"CONTENT_LENGTH"].contains(&name)
        || VAR_NAMES.iter().any(|var| var.to_bytes() == name)
}

fn set_params(environ: &Object, request: &burrow_request, learned: &[Param]) -> Result<()> {
    let mut pairs = params(request).zip(learned);
    if request.n_params == learned.len() && pairs.clone().all(|((name, _), known)| same(name, &known.name)) {
        return pairs.try_for_each(|((_, value), known)| match same(value, &known.value) {
            true => Ok(()),
            false => set_item(environ, known.key.as_ptr(), &latin1(value)?),
        });
    }
    learned.iter().try_for_each(|known| delete(environ, &known.key))?;
    params(request).try_for_each(|(name, value)| set_item(environ, latin1(name)?.as_ptr(), &latin1(value)?))
}

/// `HTTP_…` for a header's name; None for those dropped: names that could be mistaken for another's
/// (underscores and the like), and Proxy, which libraries take for their proxy's address.
fn environ_name(name: &[u8]) -> Option<Vec<u8>> {
    if !name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-') {
        return None;
    }
    let upper: Vec<u8> =
        name.iter().map(|byte| if *byte == b'-' { b'_' } else { byte.to_ascii_uppercase() }).collect();
    match &upper[..] {
        b"PROXY" => None,
        b"CONTENT_TYPE" | b"CONTENT_LENGTH" => Some(upper),
        _ => Some([b"HTTP_", &upper[..]].concat()),
    }
}

/// The key of a header; None for a header that applications do not get.
fn header_key(name: &[u8]) -> Result<Option<Object>> {
    environ_name(name).map(|text| latin1(&text)).transpose()
}

fn add_headers(state: &State, environ: &Object, request: &burrow_request) -> Result<()> {
    let mut names = state.header_names.write();
    // SAFETY: as many pairs as it says, which live as long as the call.
    for header in unsafe { slice(request.headers, request.n_headers) } {
        // SAFETY: as above.
        let (name, value) = unsafe { (header.name.bytes(), header.value.bytes()) };
        let Some(key) = names.get(name, header_key)? else { continue };
        let text = latin1(value)?;
        // SAFETY: a live dict and live objects; what is found is borrowed: the text, or one from before.
        let (found, is_new) = unsafe {
            let size = ffi::PyDict_Size(environ.as_ptr());
            let found = ffi::PyDict_SetDefault(environ.as_ptr(), key.as_ptr(), text.as_ptr());
            (found, ffi::PyDict_Size(environ.as_ptr()) > size)
        };
        if found.is_null() {
            return Err(Raised);
        }
        if !is_new {
            set_item(environ, key.as_ptr(), &merged(found, name, value)?)?;
        }
    }
    Ok(())
}

/// Several headers of one name are one list (RFC 9110, 5.3; RFC 6265, 5.4 for Cookie).
fn merged(before: *mut PyObject, name: &[u8], value: &[u8]) -> Result<Object> {
    let mut both = Vec::new();
    // SAFETY: a str that `add_headers` has put there.
    unsafe { crate::object::append_latin1(before, &mut both)? };
    if name.eq_ignore_ascii_case(b"Content-Length") || name.eq_ignore_ascii_case(b"Content-Type") {
        return latin1(&both);
    }
    both.extend_from_slice(if name.eq_ignore_ascii_case(b"Cookie") { b"; " } else { b", " });
    both.extend_from_slice(value);
    latin1(&both)
}

#[cfg(test)]
mod tests {
    use super::environ_name;

    #[test]
    fn names_of_headers() {
        assert_eq!(environ_name(b"accept-Encoding").as_deref(), Some(&b"HTTP_ACCEPT_ENCODING"[..]));
        assert_eq!(environ_name(b"Content-Type").as_deref(), Some(&b"CONTENT_TYPE"[..]));
        assert_eq!(environ_name(b"X_Evil"), None);
        assert_eq!(environ_name(b"proxy"), None);
        assert_eq!(environ_name(b"X.Y"), None);
    }
}
