//! `start_response` and the `write` it returns (PEP 3333).

use std::ffi::{c_char, c_void};
use std::mem::ManuallyDrop;
use std::ptr::null_mut;

use pyo3_ffi as ffi;
use pyo3_ffi::{PyMemberDef, PyObject};

use super::call::Call;
use crate::attach::Attached;
use crate::bootstrap::{interpreter_of, State};
use crate::head::{is_field_value, Head};
use crate::module::{free, slot, table, Function, Type, DISALLOW_INSTANTIATION};
use crate::object::{
    append_latin1, bytes_of, none, raise_gone, raise_runtime_error, raise_type_error, raise_value_error,
    restore, type_name, Object, Raised, Result,
};
use crate::observe;
use crate::sync::Guarded;

#[repr(C)]
struct StartResponse {
    ob_base: PyObject,
    vectorcall: ffi::vectorcallfunc,
    /// Null when the request is over.
    call: ManuallyDrop<Guarded<*const Call<'static>>>,
}

pub fn describe() -> Type {
    let offset = std::mem::offset_of!(StartResponse, vectorcall) as isize;
    let member = |name: *const c_char, offset| PyMemberDef {
        name,
        type_code: ffi::Py_T_PYSSIZET,
        offset,
        flags: ffi::Py_READONLY,
        doc: std::ptr::null(),
    };
    let members = table(vec![member(c"__vectorcalloffset__".as_ptr(), offset)], member(std::ptr::null(), 0));
    Type {
        name: c"mod_wsgi.StartResponse",
        size: size_of::<StartResponse>(),
        flags: ffi::Py_TPFLAGS_HAVE_VECTORCALL | DISALLOW_INSTANTIATION,
        slots: vec![
            slot(ffi::Py_tp_call, ffi::PyVectorcall_Call as *mut c_void),
            slot(ffi::Py_tp_members, members.cast()),
            slot(ffi::Py_tp_dealloc, dealloc as *mut c_void),
        ],
    }
}

/// A `start_response` for this call.
pub fn new(state: &State, call: &Call) -> Result<Object> {
    // SAFETY: the type's instances have our layout.
    unsafe {
        let object = Object::owned(ffi::PyType_GenericAlloc(state.start_response_type(), 0))?;
        let own = object.as_ptr().cast::<StartResponse>();
        (*own).vectorcall = start_response;
        // `expire` ends the borrow before the call does.
        let call = Guarded::new(std::ptr::from_ref(call).cast());
        (&raw mut (*own).call).write(ManuallyDrop::new(call));
        Ok(object)
    }
}

/// The request is over: nothing of it is reachable from here any more.
pub fn expire(object: &Object) {
    // SAFETY: an instance of our type; the thread is attached.
    unsafe { *(*object.as_ptr().cast::<StartResponse>()).call.write() = std::ptr::null() }
}

unsafe extern "C" fn dealloc(object: *mut PyObject) {
    // SAFETY: the last reference is gone; `free` releases only the memory.
    unsafe {
        ManuallyDrop::drop(&mut (*object.cast::<StartResponse>()).call);
        free(object);
    }
}

/// Does something with the call, if the request is not over.
///
/// # Safety
/// `object` is a StartResponse and the thread is attached.
unsafe fn with_call(object: *mut PyObject, work: impl FnOnce(&Call) -> Result<()>) -> Result<()> {
    // SAFETY: the pointer is null or good: it is cleared before the call waits for those that are inside.
    let entered = unsafe {
        let pointer = (*object.cast::<StartResponse>()).call.read();
        pointer.as_ref().map(|call| (call, call.enter()))
    };
    match entered {
        Some((call, _inside)) => work(call),
        None => raise_runtime_error("the request is over"),
    }
}

unsafe extern "C" fn start_response(
    object: *mut PyObject,
    arguments: *const *mut PyObject,
    count: usize,
    names: *mut PyObject,
) -> *mut PyObject {
    // SAFETY: CPython calls with an instance and as many arguments as it says, keywords last.
    let result = unsafe {
        let positional = ffi::PyVectorcall_NARGS(count) as usize;
        let keywords = if names.is_null() { 0 } else { ffi::PyTuple_GET_SIZE(names) as usize };
        let given = std::slice::from_raw_parts(arguments, positional + keywords);
        named_rightly(positional, names, keywords)
            .and_then(|()| with_call(object, |call| start(call, given)))
            .and_then(|()| WRITE.of(object, c"write", write, ffi::METH_O))
    };
    result.map_or(null_mut(), Object::into_ptr)
}

/// Checks the number of arguments; `exc_info` alone may be given by name.
unsafe fn named_rightly(positional: usize, names: *mut PyObject, keywords: usize) -> Result<()> {
    // SAFETY: `names` is a tuple of str when there are keywords.
    let named = keywords == 0
        || (positional == 2
            && keywords == 1
            && unsafe {
                ffi::PyUnicode_CompareWithASCIIString(ffi::PyTuple_GET_ITEM(names, 0), c"exc_info".as_ptr())
                    == 0
            });
    if named && matches!(positional + keywords, 2 | 3) {
        return Ok(());
    }
    raise_type_error("start_response takes status, headers and, if any, exc_info")
}

fn start(call: &Call, arguments: &[*mut PyObject]) -> Result<()> {
    if call.is_started() {
        return match arguments.get(2) {
            // SAFETY: a live argument.
            Some(&info) if unsafe { info != ffi::Py_None() } => reraise(info),
            _ => raise_runtime_error("the headers have been sent already"),
        };
    }
    // SAFETY: live arguments.
    let head = unsafe { parse(arguments[0], arguments[1])? };
    call.set_head(head)?;
    observe::responded(call, arguments)
}

/// Raises the exception of an exc_info tuple.
fn reraise(info: *mut PyObject) -> Result<()> {
    // SAFETY: a live object; the item is borrowed from the tuple.
    unsafe {
        if ffi::PyTuple_Check(info) == 0 || ffi::PyTuple_GET_SIZE(info) != 3 {
            return raise_type_error("exc_info must be a tuple of three");
        }
        let value = ffi::PyTuple_GET_ITEM(info, 1);
        if ffi::PyExceptionInstance_Check(value) == 0 {
            return raise_type_error("exc_info holds no exception");
        }
        restore(&Object::borrowed(value));
    }
    Err(Raised)
}

/// # Safety
/// Both are live objects.
unsafe fn parse(status: *mut PyObject, headers: *mut PyObject) -> Result<Head> {
    let mut head = Head::new();
    // SAFETY: types are checked before they are relied on.
    unsafe {
        head.status = parse_status(status, &mut head)?;
        if ffi::PyList_Check(headers) == 0 {
            return raise_type_error(&format!("the headers must be a list, not {}", type_name(headers)));
        }
        let count = ffi::PyList_GET_SIZE(headers);
        head.reserve(count as usize);
        for index in 0..count {
            let header = Object::owned(ffi::PySequence_GetItem(headers, index))?;
            parse_header(header.as_ptr(), &mut head)?;
        }
    }
    if head.status == 204 {
        head.content_length = None;
    }
    Ok(head)
}

/// "200 OK"; the reason may be absent.
unsafe fn parse_status(status: *mut PyObject, head: &mut Head) -> Result<u16> {
    // SAFETY: a live object.
    unsafe { append_str(status, "the status", &mut head.text)? };
    let text = &head.text[..];
    let digits = text.len() >= 3 && text[..3].iter().all(u8::is_ascii_digit);
    if !digits || !matches!(text.get(3), None | Some(b' ')) {
        return raise_value_error("the status must be three digits, a space and a reason");
    }
    if !is_field_value(text) {
        return raise_value_error("the status contains a control character");
    }
    let number = text[..3].iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0'));
    if number < 200 {
        return raise_value_error("a status below 200 is no final answer");
    }
    head.reason = (text.len().min(4) as u32, text.len() as u32);
    Ok(number)
}

unsafe fn parse_header(item: *mut PyObject, head: &mut Head) -> Result<()> {
    // SAFETY: checked to be a tuple of two before its items are taken; they are borrowed from it.
    let (name, value) = unsafe {
        if ffi::PyTuple_Check(item) == 0 || ffi::PyTuple_GET_SIZE(item) != 2 {
            return raise_type_error(&format!("each header must be a tuple of two, not {}", type_name(item)));
        }
        (ffi::PyTuple_GET_ITEM(item, 0), ffi::PyTuple_GET_ITEM(item, 1))
    };
    let start = head.text.len();
    // SAFETY: live objects.
    unsafe { append_str(name, "a header's name", &mut head.text)? };
    let middle = head.text.len();
    // SAFETY: as above.
    unsafe { append_str(value, "a header's value", &mut head.text)? };
    head.take_header(start, middle)
}

/// Appends a `str` as ISO-8859-1, or raises naming what it was meant to be.
unsafe fn append_str(object: *mut PyObject, what: &str, out: &mut Vec<u8>) -> Result<()> {
    // SAFETY: a live object, whose type is checked first.
    unsafe {
        if ffi::PyUnicode_Check(object) == 0 {
            return raise_type_error(&format!("{what} must be a str, not {}", type_name(object)));
        }
        append_latin1(object, out)
    }
}

/// `write`, a builtin function whose self is the `start_response` it came from.
static WRITE: Function = Function::new();

unsafe extern "C" fn write(object: *mut PyObject, data: *mut PyObject) -> *mut PyObject {
    // SAFETY: self is the StartResponse that PyCFunction_New was given; the thread is attached.
    let result = unsafe {
        with_call(object, |call| {
            Attached::callback(interpreter_of(object), |attached| write_to(attached, call, data))
        })
    };
    result.map_or(null_mut(), |()| none())
}

fn write_to(attached: &Attached, call: &Call, data: *mut PyObject) -> Result<()> {
    // SAFETY: a live object, checked to be bytes.
    let bytes = unsafe {
        if ffi::PyBytes_Check(data) == 0 {
            return raise_type_error(&format!("write() takes bytes, not {}", type_name(data)));
        }
        bytes_of(data)
    };
    if call.is_gone() || (!bytes.is_empty() && !call.send(attached, bytes, true)?) {
        return raise_gone();
    }
    Ok(())
}
