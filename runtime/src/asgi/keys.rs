//! The strings of scopes and events, made once for each event loop.

use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use crate::object::{interned, Object, Raised, Result};

macro_rules! keys {
    ($($name:ident $text:literal)*) => {
        /// Keys and values, interned.
        pub struct Keys { $(pub $name: Object),* }

        impl Keys {
            pub fn new() -> Result<Keys> {
                Ok(Keys { $($name: interned($text)?),* })
            }
        }
    };
}

keys! {
    asgi c"asgi"
    body c"body"
    client c"client"
    extensions c"extensions"
    headers c"headers"
    http_version c"http_version"
    method c"method"
    more_body c"more_body"
    path c"path"
    query_string c"query_string"
    raw_path c"raw_path"
    root_path c"root_path"
    scheme c"scheme"
    server c"server"
    state c"state"
    status c"status"
    type_ c"type"
}

/// An item of an event; None where it is not there. Borrowed from the event.
///
/// # Safety
/// `event` is a dict.
pub unsafe fn item(event: *mut PyObject, key: &Object) -> Result<Option<*mut PyObject>> {
    // SAFETY: a live dict and key.
    unsafe {
        let found = ffi::PyDict_GetItemWithError(event, key.as_ptr());
        match found.is_null() {
            true if !ffi::PyErr_Occurred().is_null() => Err(Raised),
            true => Ok(None),
            false => Ok(Some(found)),
        }
    }
}
