//! Setting an interpreter up, and the Python objects that are then its own.

use std::collections::HashMap;
use std::ffi::{c_int, CStr};
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;

use burrow_abi::{burrow_str, InterpreterOptions, WebSocketLimits, BURROW_LOG_ERR};
use pyo3_ffi as ffi;
use pyo3_ffi::{PyObject, PyTypeObject};

use crate::attach::{self, Attached};
use crate::header_names::HeaderNames;
use crate::host::{host, strings};
use crate::interpreter::Interpreter;
use crate::object::{
    boolean, bytes, bytes_of, dict, float, fs_decoded, integer, integers, latin1, set_item, set_named,
    take_exception, tuple, Object, Raised, Result,
};
use crate::sync::Guarded;
use crate::worker::greenlets::Greenlets;
use crate::wsgi::call::Call;
use crate::wsgi::environ::Keys;
use crate::{asgi, log, module};

/// One interpreter's own objects. No Python object is reachable from anything that interpreters share.
pub struct State {
    pub keys: Keys,
    /// The keys of environ; None for those that are not in it.
    pub header_names: Guarded<HeaderNames<Option<Object>>>,
    pub input_type: Object,
    pub start_response_type: Object,
    pub file_wrapper_type: Object,
    pub call_type: Object,
    pub awaitable_type: Object,
    /// What its applications are said to be.
    interface: c_int,
    /// The event loop that its ASGI applications are to have.
    pub event_loop: c_int,
    /// For their WebSockets.
    pub websocket: WebSocketLimits,
    /// What that works with, once there is one.
    pub asgi: OnceLock<asgi::Running>,
    /// What is needed where requests are greenlets.
    pub greenlets: OnceLock<Greenlets>,
    /// wsgi.input of every request that has no body.
    pub empty_input: Object,
    /// Of these sources.
    globals: Object,
    interface_of: Object,
    load_script: Object,
    load_module: Object,
    reload_required_of: Object,
    reload_required: Object,
    import_failed: Object,
    /// mod_wsgi.RequestTimeout.
    pub request_timeout: Object,
    /// See hooks.py.
    pub ask: Object,
    report: Object,
    forbid_fork: Object,
    shut_down: Object,
    stopping: Object,
    signalled: Object,
    threads: Object,
    stacks: Object,
    /// Makes the `Observation` of a request, or None.
    pub observe: Object,
    pub observe_scope: Object,
    /// The dict of `mod_wsgi.active_requests`, once that was used.
    pub active_requests: OnceLock<Object>,
    /// The calls that threads are in; each takes itself out before it ends.
    pub calls: Guarded<Vec<*const Call<'static>>>,
}

// SAFETY: the objects and cells are touched only by threads attached to the interpreter, which its GIL
// lets in one at a time; where there is none, the cells have locks of their own.
unsafe impl Sync for State {}
// SAFETY: as above.
unsafe impl Send for State {}

const SOURCES: [&CStr; 5] = [
    text(concat!(include_str!("bootstrap.py"), "\0").as_bytes()),
    text(concat!(include_str!("refusals.py"), "\0").as_bytes()),
    text(concat!(include_str!("interface.py"), "\0").as_bytes()),
    text(concat!(include_str!("hooks.py"), "\0").as_bytes()),
    text(concat!(include_str!("api.py"), "\0").as_bytes()),
];

/// A Python source with its closing zero byte.
pub const fn text(source: &'static [u8]) -> &'static CStr {
    match CStr::from_bytes_with_nul(source) {
        Ok(text) => text,
        Err(_) => panic!("Python's source contains no NUL"),
    }
}

/// Makes the `mod_wsgi` module, runs the Python sources and collects what the runtime needs from both.
pub fn set_up(attached: &Attached, options: &InterpreterOptions) -> Result<State> {
    let interpreter = attached.interpreter;
    let native = module::install(interpreter)?;
    let globals = run(&SOURCES, &[(c"native", &native)])?;
    let function = |name| named(&globals, name);
    // SAFETY: the host's strings, as many as it says.
    let more = unsafe { strings(options.paths, options.n_paths) };
    let paths = host().paths.iter().chain(&more).map(|path| fs_decoded(path)).collect::<Result<_>>()?;
    function(c"set_up")?.call(&[
        &boolean(interpreter.is_main()),
        &environment()?,
        &tuple(paths)?,
        &boolean(options.restrict_stdin != 0),
        &boolean(options.restrict_stdout != 0),
        &boolean(options.restrict_signal != 0),
        &float(host().switch_interval)?,
        &boolean(interpreter.own_gil),
        &apache()?,
    ])?;
    let input_type = native.attr(c"Input")?;
    Ok(State {
        keys: Keys::new()?,
        header_names: Guarded::default(),
        empty_input: crate::wsgi::input::empty(&input_type)?,
        input_type,
        start_response_type: native.attr(c"StartResponse")?,
        file_wrapper_type: native.attr(c"FileWrapper")?,
        call_type: native.attr(c"Call")?,
        awaitable_type: native.attr(c"Awaitable")?,
        interface: options.interface,
        event_loop: options.event_loop,
        websocket: options.websocket,
        asgi: OnceLock::new(),
        greenlets: OnceLock::new(),
        interface_of: function(c"interface_of")?,
        load_script: function(c"load_script")?,
        load_module: function(c"load_module")?,
        reload_required_of: function(c"reload_required_of")?,
        reload_required: function(c"reload_required")?,
        import_failed: function(c"import_failed")?,
        request_timeout: native.attr(c"RequestTimeout")?,
        ask: function(c"ask")?,
        report: function(c"report")?,
        forbid_fork: function(c"forbid_fork")?,
        shut_down: function(c"shut_down")?,
        stopping: function(c"stopping")?,
        signalled: function(c"signalled")?,
        threads: function(c"threads")?,
        stacks: function(c"stacks")?,
        observe: function(c"observation")?,
        observe_scope: function(c"scope_observation")?,
        active_requests: OnceLock::new(),
        calls: Guarded::default(),
        globals,
    })
}

/// The environment that the process had when Python was started, as a tuple of bytes.
fn environment() -> Result<Object> {
    static ENVIRONMENT: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let variables = ENVIRONMENT.get_or_init(|| {
        let variables = std::env::vars_os();
        variables.map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat()).collect()
    });
    tuple(variables.iter().map(|variable| bytes(variable)).collect::<Result<_>>()?)
}

/// The arguments of install_apache; an empty tuple where the server is not httpd.
fn apache() -> Result<Object> {
    let Some(apache) = host().apache() else { return tuple(Vec::new()) };
    let text = |string: &burrow_str| {
        // SAFETY: they live as long as the process.
        latin1(unsafe { string.bytes() })
    };
    tuple(vec![
        integers(&apache.version.map(u64::from))?,
        text(&apache.description)?,
        text(&apache.mpm_name)?,
        text(&apache.build_date)?,
    ])
}

/// What tracebacks call our sources.
const FILE: &CStr = c"<burrow>";

/// Executes sources one after another; the globals that they share, where these objects are already.
pub fn run(sources: &[&CStr], objects: &[(&CStr, &Object)]) -> Result<Object> {
    let globals = dict()?;
    // SAFETY: borrowed from the interpreter; NUL-terminated.
    let (builtins, file) = unsafe {
        let builtins = Object::borrowed(ffi::PyEval_GetBuiltins());
        (builtins, Object::owned(ffi::PyUnicode_FromString(FILE.as_ptr()))?)
    };
    let given = [(c"__builtins__", &builtins), (c"__file__", &file), (c"__name__", &file)];
    for (name, value) in given.iter().chain(objects) {
        set_named(&globals, name, value)?;
    }
    sources.iter().try_for_each(|source| execute(source, &globals))?;
    Ok(globals)
}

fn execute(source: &CStr, globals: &Object) -> Result<()> {
    // SAFETY: all arguments are live and of the types these calls ask for.
    unsafe {
        let code = Object::owned(ffi::Py_CompileString(source.as_ptr(), FILE.as_ptr(), ffi::Py_file_input))?;
        Object::owned(ffi::PyEval_EvalCode(code.as_ptr(), globals.as_ptr(), globals.as_ptr())).map(drop)
    }
}

/// What the sources call so.
pub fn named(globals: &Object, name: &CStr) -> Result<Object> {
    // SAFETY: a live dict; what is found is borrowed from it. A source of ours has it.
    unsafe {
        let found = ffi::PyDict_GetItemString(globals.as_ptr(), name.as_ptr());
        if found.is_null() {
            return Err(Raised);
        }
        Ok(Object::borrowed(found))
    }
}

impl State {
    /// The globals of a further source, which sees those of the first ones.
    pub fn run_further(&self, source: &CStr) -> Result<Object> {
        // SAFETY: a live dict.
        let globals = unsafe { Object::owned(ffi::PyDict_Copy(self.globals.as_ptr()))? };
        execute(source, &globals)?;
        Ok(globals)
    }

    /// The callable for requests that a target's callable stands for, and which interface it has.
    pub fn interface_of(&self, callable: &Object) -> Result<(Object, c_int)> {
        let found = self.interface_of.call(&[callable, &integer(self.interface as u64)?])?;
        // SAFETY: interface.py gives a tuple of these two.
        unsafe {
            let callable = Object::borrowed(ffi::PyTuple_GET_ITEM(found.as_ptr(), 0));
            Ok((callable, ffi::PyLong_AsLong(ffi::PyTuple_GET_ITEM(found.as_ptr(), 1)) as c_int))
        }
    }

    pub fn load_script(&self, path: &Object, callable: &Object) -> Result<Object> {
        self.load_script.call(&[path, callable])
    }

    /// The function by which a script that is loaded itself asks to be loaded again.
    pub fn reload_required_of(&self, path: &Object) -> Result<Option<Object>> {
        let function = self.reload_required_of.call(&[path])?;
        // SAFETY: None is always there.
        Ok((function.as_ptr() != unsafe { ffi::Py_None() }).then_some(function))
    }

    /// Whether it asks for that now; if so, the next `load_script` does it.
    pub fn reload_required(&self, function: &Object, path: &Object) -> Result<bool> {
        let answer = self.reload_required.call(&[function, path])?;
        // SAFETY: True is always there.
        Ok(answer.as_ptr() == unsafe { ffi::Py_True() })
    }

    pub fn load_module(&self, name: &Object, callable: &Object) -> Result<Object> {
        self.load_module.call(&[name, callable])
    }

    /// Logs that a target cannot be used. Whether the exception says more.
    pub fn import_failed(&self, target: &str, place: &str, exception: &Object) -> Result<bool> {
        let (target, place) = (fs_decoded(target.as_bytes())?, fs_decoded(place.as_bytes())?);
        let more = self.import_failed.call(&[&target, &place, exception])?;
        // SAFETY: True is always there.
        Ok(more.as_ptr() == unsafe { ffi::Py_True() })
    }

    pub fn forbid_fork(&self, _attached: &Attached) -> Result<()> {
        self.forbid_fork.call(&[]).map(drop)
    }

    /// Publishes process_stopping.
    pub fn stopping(&self, _attached: &Attached, reason: &[u8]) {
        if latin1(reason).and_then(|reason| self.stopping.call(&[&reason])).is_err() {
            self.report(take_exception());
        }
    }

    /// Publishes process_signal.
    pub fn signalled(&self, _attached: &Attached, name: &str, number: u64) {
        let told = latin1(name.as_bytes()).and_then(|name| self.signalled.call(&[&name, &integer(number)?]));
        if told.is_err() {
            self.report(take_exception());
        }
    }

    /// A line for each thread that this interpreter knows: Python's number of it and a title.
    pub fn threads(&self, _attached: &Attached) -> Result<String> {
        self.threads.call(&[]).map(|lines| text_of(&lines))
    }

    /// The stacks of this interpreter's threads, under these titles; `more`: further pairs of number and frame.
    pub fn stacks(
        &self,
        attached: &Attached,
        titles: &HashMap<u64, String>,
        more: Vec<Object>,
    ) -> Result<String> {
        let known = dict()?;
        for (thread, title) in titles {
            let title = latin1(title.as_bytes())?;
            set_item(&known, integer(*thread)?.as_ptr(), &title)?;
        }
        self.stacks.call(&[&attach::frames(attached)?, &tuple(more)?, &known]).map(|stacks| text_of(&stacks))
    }

    pub fn shut_down(&self, _attached: &Attached) {
        if self.shut_down.call(&[]).is_err() {
            self.report(take_exception());
        }
    }

    /// Logs an exception's traceback at error level.
    pub fn report(&self, exception: Option<Object>) {
        let Some(exception) = exception else { return };
        if self.report.call(&[&exception]).is_err() {
            // Not even the traceback could be made (no memory, say): the type's name at least.
            take_exception();
            // SAFETY: a live object.
            let name = unsafe { crate::object::type_name(exception.as_ptr()) };
            let line = format!("burrow: {name} was raised; its traceback cannot be printed");
            log::line(BURROW_LOG_ERR, line.as_bytes());
        }
    }

    pub fn input_type(&self) -> *mut PyTypeObject {
        self.input_type.as_ptr().cast()
    }

    pub fn start_response_type(&self) -> *mut PyTypeObject {
        self.start_response_type.as_ptr().cast()
    }

    /// Whether this is a `wsgi.file_wrapper` itself, not something derived from it.
    pub fn is_file_wrapper(&self, object: *mut PyObject) -> bool {
        // SAFETY: a live object.
        unsafe { ffi::Py_TYPE(object).cast::<PyObject>() == self.file_wrapper_type.as_ptr() }
    }
}

/// A text that bootstrap.py has encoded.
pub fn text_of(bytes: &Object) -> String {
    // SAFETY: bytes, as its functions return them.
    String::from_utf8_lossy(unsafe { bytes_of(bytes.as_ptr()) }).into_owned()
}

/// The interpreter that a type of ours belongs to.
///
/// # Safety
/// `of` is an instance of one of our (final) types, and the thread is attached.
pub unsafe fn interpreter_of(of: *mut PyObject) -> &'static Interpreter {
    // SAFETY: the module's state holds the pointer that module::install put there.
    unsafe { *ffi::PyType_GetModuleState(ffi::Py_TYPE(of)).cast::<&'static Interpreter>() }
}
