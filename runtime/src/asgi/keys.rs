//! The strings of scopes and events, made once for each event loop.

use pyo3_ffi as ffi;
use pyo3_ffi::PyObject;

use crate::object::{
    interned, raise_type_error, raise_value_error, text_of, type_name, Object, Raised, Result,
};

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
    bytes c"bytes"
    cipher_suite c"cipher_suite"
    client c"client"
    client_cert_chain c"client_cert_chain"
    client_cert_error c"client_cert_error"
    client_cert_name c"client_cert_name"
    code c"code"
    extensions c"extensions"
    headers c"headers"
    http_version c"http_version"
    links c"links"
    method c"method"
    more_body c"more_body"
    more_trailers c"more_trailers"
    path c"path"
    query_string c"query_string"
    raw_path c"raw_path"
    reason c"reason"
    root_path c"root_path"
    scheme c"scheme"
    server c"server"
    server_cert c"server_cert"
    state c"state"
    status c"status"
    subprotocol c"subprotocol"
    subprotocols c"subprotocols"
    text c"text"
    tls c"tls"
    tls_version c"tls_version"
    trailers c"trailers"
    type_ c"type"
    websocket_connect c"websocket.connect"
    websocket_disconnect c"websocket.disconnect"
    websocket_receive c"websocket.receive"
}

/// What an event that the application sends is.
///
/// # Safety
/// A live object, which outlives the text.
pub unsafe fn kind_of<'a>(event: *mut PyObject, keys: &Keys) -> Result<&'a str> {
    // SAFETY: as the caller vouches; checked to be a dict before its item is borrowed.
    unsafe {
        if ffi::PyDict_Check(event) == 0 {
            return raise_type_error(&format!("an ASGI event must be a dict, not {}", type_name(event)));
        }
        match item(event, &keys.type_)? {
            Some(kind) => text_of(kind),
            None => raise_value_error("an ASGI event must have a type"),
        }
    }
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
