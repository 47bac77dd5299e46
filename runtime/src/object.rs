//! A thin safe layer over `pyo3_ffi`: owned references, and "an exception is set" as an error.
//!
//! Nothing here attaches to an interpreter. Every function must run on a thread that is attached to
//! the interpreter the objects belong to; [`crate::attach::Attached`] is the proof that callers carry.

use std::ffi::CStr;
use std::ptr::NonNull;

use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

/// A Python exception is set on this thread.
#[derive(Debug)]
pub struct Raised;

pub type Result<T> = std::result::Result<T, Raised>;

/// An owned reference. Dropped while attached to its interpreter.
pub struct Object(NonNull<PyObject>);

impl Object {
    /// Takes over a new reference; NULL means that an exception is set.
    ///
    /// # Safety
    /// `ptr` is NULL or a reference that the caller owns.
    pub unsafe fn owned(ptr: *mut PyObject) -> Result<Object> {
        NonNull::new(ptr).map(Object).ok_or(Raised)
    }

    /// Makes a new reference to a borrowed, non-null object.
    ///
    /// # Safety
    /// `ptr` is a live object.
    pub unsafe fn borrowed(ptr: *mut PyObject) -> Object {
        // SAFETY: the caller vouches that it is a live object, so not null.
        unsafe {
            ffi::Py_INCREF(ptr);
            Object(NonNull::new_unchecked(ptr))
        }
    }

    pub fn as_ptr(&self) -> *mut PyObject {
        self.0.as_ptr()
    }

    pub fn into_ptr(self) -> *mut PyObject {
        let ptr = self.0.as_ptr();
        std::mem::forget(self);
        ptr
    }

    pub fn attr(&self, name: &CStr) -> Result<Object> {
        // SAFETY: both are live; the result is a new reference or NULL.
        unsafe { Object::owned(ffi::PyObject_GetAttrString(self.as_ptr(), name.as_ptr())) }
    }

    pub fn call<const N: usize>(&self, args: &[&Object; N]) -> Result<Object> {
        // SAFETY: the references keep the objects alive.
        unsafe { self.call_with(&args.map(Object::as_ptr)) }
    }

    /// # Safety
    /// The arguments are live objects.
    pub unsafe fn call_with(&self, args: &[*mut PyObject]) -> Result<Object> {
        // SAFETY: as many live objects as it says.
        unsafe {
            Object::owned(ffi::PyObject_Vectorcall(
                self.as_ptr(),
                args.as_ptr(),
                args.len(),
                std::ptr::null_mut(),
            ))
        }
    }
}

impl Clone for Object {
    fn clone(&self) -> Self {
        // SAFETY: self keeps it alive.
        unsafe { Object::borrowed(self.as_ptr()) }
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: we own one reference, and the thread is attached (see the module's comment).
        unsafe { ffi::Py_DECREF(self.as_ptr()) }
    }
}

// SAFETY: a reference may move between threads; it is only touched by attached ones.
unsafe impl Send for Object {}
// SAFETY: as above.
unsafe impl Sync for Object {}

/// `bytes` decoded as ISO-8859-1, the native strings of PEP 3333.
pub fn latin1(bytes: &[u8]) -> Result<Object> {
    // SAFETY: pointer and length belong together; CPython takes the ASCII fast path itself.
    unsafe {
        Object::owned(ffi::PyUnicode_DecodeLatin1(
            bytes.as_ptr().cast(),
            bytes.len() as isize,
            std::ptr::null(),
        ))
    }
}

/// `bytes` decoded as UTF-8; what is none becomes U+FFFD.
pub fn utf8(bytes: &[u8]) -> Result<Object> {
    // SAFETY: pointer and length belong together.
    unsafe {
        Object::owned(ffi::PyUnicode_DecodeUTF8(
            bytes.as_ptr().cast(),
            bytes.len() as isize,
            c"replace".as_ptr(),
        ))
    }
}

/// The text of a `str`.
///
/// # Safety
/// `object` is live and outlives the text.
pub unsafe fn text_of<'a>(object: *mut PyObject) -> Result<&'a str> {
    // SAFETY: a live object; CPython keeps the text with it.
    unsafe {
        if ffi::PyUnicode_Check(object) == 0 {
            return raise_type_error(&format!("expected a str, not {}", type_name(object)));
        }
        let mut length = 0;
        let text = ffi::PyUnicode_AsUTF8AndSize(object, &mut length);
        if text.is_null() {
            return Err(Raised);
        }
        Ok(std::str::from_utf8_unchecked(std::slice::from_raw_parts(text.cast(), length as usize)))
    }
}

/// A `str` from a file name in the file system's encoding.
pub fn fs_decoded(bytes: &[u8]) -> Result<Object> {
    // SAFETY: pointer and length belong together.
    unsafe {
        Object::owned(ffi::PyUnicode_DecodeFSDefaultAndSize(bytes.as_ptr().cast(), bytes.len() as isize))
    }
}

/// An interned `str`, for the keys of dicts.
pub fn interned(text: &CStr) -> Result<Object> {
    // SAFETY: NUL-terminated.
    unsafe { Object::owned(ffi::PyUnicode_InternFromString(text.as_ptr())) }
}

pub fn integer(value: u64) -> Result<Object> {
    // SAFETY: no precondition.
    unsafe { Object::owned(ffi::PyLong_FromUnsignedLongLong(value)) }
}

pub fn float(value: f64) -> Result<Object> {
    // SAFETY: no precondition.
    unsafe { Object::owned(ffi::PyFloat_FromDouble(value)) }
}

/// Seconds as a `float`, from microseconds.
pub fn seconds(micros: i64) -> Result<Object> {
    float(micros as f64 / 1e6)
}

pub fn boolean(value: bool) -> Object {
    // SAFETY: always a valid object.
    unsafe { Object::borrowed(if value { ffi::Py_True() } else { ffi::Py_False() }) }
}

/// A new reference to None, for functions that return nothing.
pub fn none() -> *mut PyObject {
    // SAFETY: None is always there.
    unsafe {
        ffi::Py_INCREF(ffi::Py_None());
        ffi::Py_None()
    }
}

/// A `bytes` object.
pub fn bytes(bytes: &[u8]) -> Result<Object> {
    // SAFETY: pointer and length belong together.
    unsafe { Object::owned(ffi::PyBytes_FromStringAndSize(bytes.as_ptr().cast(), bytes.len() as isize)) }
}

/// The bytes of a `bytes` object.
///
/// # Safety
/// `object` passes `PyBytes_Check` and outlives the slice.
pub unsafe fn bytes_of<'a>(object: *mut PyObject) -> &'a [u8] {
    // SAFETY: the caller vouches for type and life; bytes never change.
    unsafe {
        std::slice::from_raw_parts(ffi::PyBytes_AS_STRING(object).cast(), ffi::Py_SIZE(object) as usize)
    }
}

/// Appends a `str` to `out`, encoded as ISO-8859-1 (PEP 3333's native strings).
///
/// # Safety
/// `object` passes `PyUnicode_Check`.
pub unsafe fn append_latin1(object: *mut PyObject, out: &mut Vec<u8>) -> Result<()> {
    // SAFETY: a string of kind 1 stores its code points as bytes; else CPython encodes it.
    unsafe {
        if ffi::PyUnicode_KIND(object) == ffi::PyUnicode_1BYTE_KIND {
            let data = ffi::PyUnicode_DATA(object).cast::<u8>();
            out.extend_from_slice(std::slice::from_raw_parts(
                data,
                ffi::PyUnicode_GET_LENGTH(object) as usize,
            ));
            return Ok(());
        }
        let encoded = Object::owned(ffi::PyUnicode_AsLatin1String(object))?;
        out.extend_from_slice(bytes_of(encoded.as_ptr()));
        Ok(())
    }
}

/// A tuple of these objects.
pub fn tuple(items: Vec<Object>) -> Result<Object> {
    // SAFETY: a new tuple of that size, each slot of which is filled with an owned reference.
    unsafe {
        let tuple = Object::owned(ffi::PyTuple_New(items.len() as isize))?;
        for (index, item) in items.into_iter().enumerate() {
            ffi::PyTuple_SET_ITEM(tuple.as_ptr(), index as isize, item.into_ptr());
        }
        Ok(tuple)
    }
}

/// A tuple of numbers.
pub fn integers(numbers: &[u64]) -> Result<Object> {
    tuple(numbers.iter().map(|number| integer(*number)).collect::<Result<_>>()?)
}

pub fn dict() -> Result<Object> {
    // SAFETY: no precondition.
    unsafe { Object::owned(ffi::PyDict_New()) }
}

/// Sets an item of a dict under a key that is a literal.
pub fn set_named(dict: &Object, key: &CStr, value: &Object) -> Result<()> {
    set_item(dict, interned(key)?.as_ptr(), value)
}

pub fn set_item(dict: &Object, key: *mut PyObject, value: &Object) -> Result<()> {
    // SAFETY: three live objects.
    match unsafe { ffi::PyDict_SetItem(dict.as_ptr(), key, value.as_ptr()) } {
        0 => Ok(()),
        _ => Err(Raised),
    }
}

/// Sets an exception of the type with this message.
fn raise<T>(kind: *mut PyObject, message: &str) -> Result<T> {
    let text = std::ffi::CString::new(message.replace('\0', "\\0")).expect("NULs were replaced");
    // SAFETY: `kind` is one of the interpreter's exception types.
    unsafe { ffi::PyErr_SetString(kind, text.as_ptr()) }
    Err(Raised)
}

pub fn raise_type_error<T>(message: &str) -> Result<T> {
    // SAFETY: the thread is attached, so the builtin types are there.
    raise(unsafe { ffi::PyExc_TypeError }, message)
}

pub fn raise_value_error<T>(message: &str) -> Result<T> {
    // SAFETY: as above.
    raise(unsafe { ffi::PyExc_ValueError }, message)
}

pub fn raise_runtime_error<T>(message: &str) -> Result<T> {
    // SAFETY: as above.
    raise(unsafe { ffi::PyExc_RuntimeError }, message)
}

/// A ConnectionResetError: the client has gone.
pub fn raise_gone<T>() -> Result<T> {
    raise_reset(c"the client has closed the connection")
}

/// A ConnectionResetError with this message.
pub fn raise_reset<T>(message: &CStr) -> Result<T> {
    // SAFETY: as above; the format takes the two arguments that follow it.
    unsafe {
        let arguments = ffi::Py_BuildValue(c"is".as_ptr(), libc::ECONNRESET, message.as_ptr());
        if !arguments.is_null() {
            ffi::PyErr_SetObject(ffi::PyExc_ConnectionResetError, arguments);
            ffi::Py_DECREF(arguments);
        }
    }
    Err(Raised)
}

/// Sets an exception object as the one being raised; it keeps its traceback.
pub fn restore(exception: &Object) {
    // SAFETY: a live exception object.
    unsafe { ffi::PyErr_SetObject(ffi::Py_TYPE(exception.as_ptr()).cast(), exception.as_ptr()) }
}

/// The name of an object's type, for messages.
///
/// # Safety
/// `object` is live.
pub unsafe fn type_name(object: *mut PyObject) -> String {
    // SAFETY: tp_name is NUL-terminated and lives as long as the type.
    unsafe { CStr::from_ptr((*ffi::Py_TYPE(object)).tp_name).to_string_lossy().into_owned() }
}

/// Raises what was raised in a greenlet while it waited, if anything was.
pub fn raise_pending() -> Result<()> {
    // SAFETY: no precondition but being attached.
    match unsafe { ffi::PyErr_Occurred().is_null() } {
        true => Ok(()),
        false => Err(Raised),
    }
}

/// Takes the exception that is set.
pub fn take_exception() -> Option<Object> {
    #[cfg(Py_3_12)]
    // SAFETY: returns a new reference or NULL.
    unsafe {
        Object::owned(ffi::PyErr_GetRaisedException()).ok()
    }
    #[cfg(not(Py_3_12))]
    // SAFETY: the three are new references or NULL; normalising makes `value` an exception object.
    unsafe {
        let (mut kind, mut value, mut traceback) =
            (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
        ffi::PyErr_Fetch(&mut kind, &mut value, &mut traceback);
        if kind.is_null() {
            return None;
        }
        ffi::PyErr_NormalizeException(&mut kind, &mut value, &mut traceback);
        if !traceback.is_null() {
            ffi::PyException_SetTraceback(value, traceback);
            ffi::Py_DECREF(traceback);
        }
        ffi::Py_DECREF(kind);
        Object::owned(value).ok()
    }
}
