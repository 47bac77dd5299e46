//! The `mod_wsgi` module that applications import, made without a file in every interpreter.

use std::ffi::{c_int, c_void, CStr};
use std::sync::OnceLock;

use pyo3_ffi as ffi;
use pyo3_ffi::{PyMethodDef, PyModuleDef, PyModuleDef_Slot, PyObject, PyType_Slot, PyType_Spec};

use crate::interpreter::Interpreter;
use crate::object::{integer, integers, latin1, Object, Raised, Result};
use crate::worker::greenlets;
use crate::wsgi::{input, start_response};
use crate::{asgi, host, httpd, log, metrics, observe};

/// The version of mod_wsgi whose interface this is.
pub const VERSION: [u64; 3] = [6, 1, 1];

/// A spec for one of our types; filled by the file that defines the type.
pub struct Type {
    pub name: &'static CStr,
    pub size: usize,
    pub flags: u64,
    /// Without the closing zero slot.
    pub slots: Vec<PyType_Slot>,
}

pub fn slot(slot: c_int, function: *mut c_void) -> PyType_Slot {
    PyType_Slot { slot, pfunc: function }
}

/// A method for a type's or module's table, which must live for ever.
pub fn method(name: &'static CStr, function: ffi::PyCFunction) -> PyMethodDef {
    PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunction: function },
        ml_flags: ffi::METH_VARARGS,
        ml_doc: std::ptr::null(),
    }
}

/// The definition of a function whose self is an object of ours: made once, for ever.
pub struct Function(OnceLock<Definition>);

struct Definition(PyMethodDef);
// SAFETY: never changed once it is made.
unsafe impl Sync for Definition {}
// SAFETY: as above.
unsafe impl Send for Definition {}

impl Function {
    pub const fn new() -> Function {
        Function(OnceLock::new())
    }

    /// The function of `object`.
    pub fn of(
        &'static self,
        object: *mut PyObject,
        name: &'static CStr,
        function: ffi::PyCFunction,
        flags: c_int,
    ) -> Result<Object> {
        let made = self.0.get_or_init(|| {
            let mut made = method(name, function);
            made.ml_flags = flags;
            Definition(made)
        });
        // SAFETY: a live object; the definition lives for ever.
        unsafe { Object::owned(ffi::PyCFunction_New(std::ptr::from_ref(&made.0).cast_mut(), object)) }
    }
}

/// Py_TPFLAGS_DISALLOW_INSTANTIATION; without a tp_new 3.10 needs it said.
pub const DISALLOW_INSTANTIATION: u64 = 1 << 7;

/// Adds the closing entry and lets the table live for ever, as CPython expects of it.
pub fn table<T>(mut entries: Vec<T>, end: T) -> *mut T {
    entries.push(end);
    Box::leak(entries.into_boxed_slice()).as_mut_ptr()
}

/// Those with an underscore are taken off the module by what uses them, bootstrap.py.
fn functions() -> Vec<PyMethodDef> {
    let mut all = vec![method(c"_log", log::log_function)];
    all.extend(observe::functions());
    all.extend(metrics::functions());
    all.extend(httpd::functions());
    all.extend(asgi::functions());
    all.extend(greenlets::functions());
    all
}

/// The module is good for interpreters with locks of their own, and without.
fn slots() -> Vec<PyModuleDef_Slot> {
    vec![
        #[cfg(Py_3_12)]
        PyModuleDef_Slot {
            slot: ffi::Py_mod_multiple_interpreters,
            value: ffi::Py_MOD_PER_INTERPRETER_GIL_SUPPORTED,
        },
        #[cfg(Py_GIL_DISABLED)]
        PyModuleDef_Slot { slot: ffi::Py_mod_gil, value: ffi::Py_MOD_GIL_NOT_USED },
    ]
}

/// The interpreter of our module.
///
/// # Safety
/// `module` is one that `install` made.
pub unsafe fn interpreter_of_module(module: *mut PyObject) -> &'static Interpreter {
    // SAFETY: its state holds the pointer that `install` put there.
    unsafe { *ffi::PyModule_GetState(module).cast::<&'static Interpreter>() }
}

/// Makes the module in the interpreter that the thread is attached to and puts it into `sys.modules`.
pub fn install(interpreter: &'static Interpreter) -> Result<Object> {
    let def = Box::leak(Box::new(PyModuleDef {
        m_base: ffi::PyModuleDef_HEAD_INIT,
        m_name: c"mod_wsgi".as_ptr(),
        m_doc: std::ptr::null(),
        m_size: size_of::<&'static Interpreter>() as isize,
        m_methods: table(functions(), PyMethodDef::zeroed()),
        m_slots: table(slots(), PyModuleDef_Slot { slot: 0, value: std::ptr::null_mut() }).cast(),
        m_traverse: None,
        m_clear: None,
        m_free: None,
    }));
    // SAFETY: attached; every argument is live and of the type asked for; the def lives for ever. A def
    // of its own for each interpreter, since CPython writes into it.
    unsafe {
        let machinery = Object::owned(ffi::PyImport_ImportModule(c"importlib.machinery".as_ptr()))?;
        let name = Object::owned(ffi::PyUnicode_InternFromString(c"mod_wsgi".as_ptr()))?;
        let none = Object::borrowed(ffi::Py_None());
        let spec = machinery.attr(c"ModuleSpec")?.call(&[&name, &none])?;
        let module = Object::owned(ffi::PyModule_FromDefAndSpec(def, spec.as_ptr()))?;
        if ffi::PyModule_ExecDef(module.as_ptr(), def) != 0 {
            return Err(Raised);
        }
        *ffi::PyModule_GetState(module.as_ptr()).cast::<&'static Interpreter>() = interpreter;
        for each in [
            input::describe(),
            start_response::describe(),
            log::describe(),
            asgi::coroutine::describe(),
            asgi::awaitable::describe(),
        ] {
            add_type(&module, each)?;
        }
        add_constants(&module, interpreter)?;
        let modules = Object::borrowed(ffi::PyImport_GetModuleDict());
        crate::object::set_item(&modules, name.as_ptr(), &module)?;
        Ok(module)
    }
}

fn add_type(module: &Object, described: Type) -> Result<()> {
    let name = described.name;
    let mut spec = PyType_Spec {
        name: name.as_ptr(),
        basicsize: described.size as c_int,
        itemsize: 0,
        // Final (no BASETYPE), so that PyType_GetModuleState finds the module from any instance.
        flags: (ffi::Py_TPFLAGS_DEFAULT | described.flags) as u32,
        slots: table(described.slots, slot(0, std::ptr::null_mut())),
    };
    // SAFETY: module and spec are live; CPython copies what it needs but the slots' tables, which leak.
    let made = unsafe {
        Object::owned(ffi::PyType_FromModuleAndSpec(module.as_ptr(), &mut spec, std::ptr::null_mut()))?
    };
    let short = name.to_bytes_with_nul().split(|byte| *byte == b'.').next_back().expect("a dotted name");
    add(module, CStr::from_bytes_with_nul(short).expect("ends with the name's NUL"), made)
}

fn add(module: &Object, name: &CStr, value: Object) -> Result<()> {
    // SAFETY: all live; the module takes its own reference.
    match unsafe { ffi::PyObject_SetAttrString(module.as_ptr(), name.as_ptr(), value.as_ptr()) } {
        0 => Ok(()),
        _ => Err(Raised),
    }
}

fn add_constants(module: &Object, interpreter: &Interpreter) -> Result<()> {
    add(module, c"version", version()?)?;
    add(module, c"process_group", latin1(&host::host().process_group)?)?;
    add(module, c"application_group", latin1(&interpreter.group)?)?;
    add(module, c"maximum_processes", integer(host::host().processes.into())?)?;
    add(module, c"threads_per_process", integer(host::host().threads.into())?)
}

pub fn version() -> Result<Object> {
    integers(&VERSION)
}

/// Forgets an instance of one of our types and its reference to the type.
///
/// # Safety
/// To be called from the type's tp_dealloc, last.
pub unsafe fn free(object: *mut PyObject) {
    // SAFETY: allocated by PyType_GenericAlloc; heap types are counted by their instances.
    unsafe {
        let kind = ffi::Py_TYPE(object);
        ffi::PyObject_Free(object.cast());
        ffi::Py_DECREF(kind.cast());
    }
}
