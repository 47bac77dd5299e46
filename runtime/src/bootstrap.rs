//! Setting an interpreter up, and the Python objects that are then its own.

use std::cell::RefCell;
use std::ffi::CStr;

use burrow_abi::{burrow_level, BURROW_LOG_ERR};
use pyo3_ffi as ffi;
use pyo3_ffi::{PyObject, PyTypeObject};

use crate::attach::Attached;
use crate::host::host;
use crate::interpreter::Interpreter;
use crate::object::{boolean, fs_decoded, set_item, take_exception, Object, Raised, Result};
use crate::wsgi::environ::{HeaderNames, Keys};
use crate::{log, module};

/// One interpreter's own objects. No Python object is reachable from anything that interpreters share.
pub struct State {
    pub keys: Keys,
    pub header_names: RefCell<HeaderNames>,
    pub input_type: Object,
    pub start_response_type: Object,
    pub file_wrapper_type: Object,
    /// wsgi.input of every request that has no body.
    pub empty_input: Object,
    load_script: Object,
    load_module: Object,
    /// See hooks.py.
    pub ask: Object,
    report: Object,
    forbid_fork: Object,
    shut_down: Object,
}

// SAFETY: the objects and cells are touched only by threads attached to the interpreter, which its GIL
// lets in one at a time.
unsafe impl Sync for State {}
// SAFETY: as above.
unsafe impl Send for State {}

const SOURCE: &CStr = match CStr::from_bytes_with_nul(
    concat!(include_str!("bootstrap.py"), include_str!("hooks.py"), "\0").as_bytes(),
) {
    Ok(source) => source,
    Err(_) => panic!("Python's source contains no NUL"),
};

/// Makes the `mod_wsgi` module, runs bootstrap.py and collects what the runtime needs from both.
pub fn set_up(attached: &Attached) -> Result<State> {
    let interpreter = attached.interpreter;
    let native = module::install(interpreter)?;
    let globals = run_source(&native)?;
    let function = |name: &CStr| -> Result<Object> {
        // SAFETY: the dict and the name are live; the result is borrowed from the dict.
        unsafe {
            let found = ffi::PyDict_GetItemString(globals.as_ptr(), name.as_ptr());
            if found.is_null() {
                Err(Raised)
            } else {
                Ok(Object::borrowed(found))
            }
        }
    };
    // SAFETY: a list of the length that is then filled.
    let paths = unsafe { Object::owned(ffi::PyList_New(0))? };
    for path in &host().paths {
        // SAFETY: both live; append takes its own reference.
        if unsafe { ffi::PyList_Append(paths.as_ptr(), fs_decoded(path)?.as_ptr()) } != 0 {
            return Err(Raised);
        }
    }
    function(c"set_up")?.call(&[&boolean(interpreter.is_main()), &paths])?;
    let input_type = native.attr(c"Input")?;
    Ok(State {
        keys: Keys::new()?,
        header_names: RefCell::default(),
        empty_input: crate::wsgi::input::empty(&input_type)?,
        input_type,
        start_response_type: native.attr(c"StartResponse")?,
        file_wrapper_type: native.attr(c"FileWrapper")?,
        load_script: function(c"load_script")?,
        load_module: function(c"load_module")?,
        ask: function(c"ask")?,
        report: function(c"report")?,
        forbid_fork: function(c"forbid_fork")?,
        shut_down: function(c"shut_down")?,
    })
}

fn run_source(native: &Object) -> Result<Object> {
    const FILE: &CStr = c"<burrow>";
    // SAFETY: all arguments are live and of the types these calls ask for.
    unsafe {
        let globals = Object::owned(ffi::PyDict_New())?;
        let builtins = Object::borrowed(ffi::PyEval_GetBuiltins());
        let file = Object::owned(ffi::PyUnicode_FromString(FILE.as_ptr()))?;
        for (name, value) in
            [(c"__builtins__", &builtins), (c"__file__", &file), (c"__name__", &file), (c"native", native)]
        {
            set_item(&globals, crate::object::interned(name)?.as_ptr(), value)?;
        }
        let code = Object::owned(ffi::Py_CompileString(SOURCE.as_ptr(), FILE.as_ptr(), ffi::Py_file_input))?;
        Object::owned(ffi::PyEval_EvalCode(code.as_ptr(), globals.as_ptr(), globals.as_ptr()))?;
        Ok(globals)
    }
}

impl State {
    pub fn load_script(&self, path: &Object, callable: &Object) -> Result<Object> {
        self.load_script.call(&[path, callable])
    }

    pub fn load_module(&self, name: &Object, callable: &Object) -> Result<Object> {
        self.load_module.call(&[name, callable])
    }

    pub fn forbid_fork(&self, _attached: &Attached) -> Result<()> {
        self.forbid_fork.call(&[]).map(drop)
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
            self.log(BURROW_LOG_ERR, &format!("burrow: {name} was raised; its traceback cannot be printed"));
        }
    }

    /// One line for the error log, in the context of the request that this thread serves.
    pub fn log(&self, level: burrow_level, line: &str) {
        log::line(level, line.as_bytes());
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

/// The interpreter that a type of ours belongs to.
///
/// # Safety
/// `of` is an instance of one of our (final) types, and the thread is attached.
pub unsafe fn interpreter_of(of: *mut PyObject) -> &'static Interpreter {
    // SAFETY: the module's state holds the pointer that module::install put there.
    unsafe { *ffi::PyType_GetModuleState(ffi::Py_TYPE(of)).cast::<&'static Interpreter>() }
}
