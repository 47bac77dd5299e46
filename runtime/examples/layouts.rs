//! Prints a C file that compiles where CPython's headers lay out what the runtime and pyo3-ffi's inline functions
//! look into as pyo3-ffi says: for a Python that there is no build of to test with.

use std::mem::{offset_of, size_of};

use pyo3_ffi::*;

macro_rules! sizes {
    ($($of:ident)*) => {
        $(println!("_Static_assert(sizeof({0}) == {1}, \"{0}\");", stringify!($of), size_of::<$of>());)*
    };
}

macro_rules! offsets {
    ($($of:ident.$field:ident)*) => {
        $(println!(
            "_Static_assert(offsetof({0}, {1}) == {2}, \"{0}.{1}\");",
            stringify!($of),
            stringify!($field),
            offset_of!($of, $field),
        );)*
    };
}

fn main() {
    println!("#include <Python.h>\n#include <stddef.h>");
    sizes!(PyObject PyVarObject PyTupleObject PyListObject PyBytesObject PyASCIIObject PyCompactUnicodeObject);
    sizes!(PyTypeObject PyType_Spec PyType_Slot PyMethodDef PyModuleDef PyModuleDef_Slot);
    sizes!(Py_buffer PyConfig PyPreConfig PyStatus);
    offsets!(PyObject.ob_type PyVarObject.ob_size PyTupleObject.ob_item PyListObject.ob_item);
    offsets!(PyBytesObject.ob_sval PyASCIIObject.length PyASCIIObject.state PyTypeObject.tp_flags);
    offsets!(PyConfig.home PyConfig.install_signal_handlers PyConfig.module_search_paths PyStatus.err_msg);
    #[cfg(Py_3_12)]
    {
        sizes!(PyInterpreterConfig);
        offsets!(PyInterpreterConfig.gil);
    }
}
