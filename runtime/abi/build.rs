//! Makes the Rust declarations of `c/shim.h`.

use std::{env, path::PathBuf};

fn main() {
    let header = PathBuf::from(env::var("CARGO_MANIFEST_DIR").unwrap()).join("../../c/shim.h");
    println!("cargo:rerun-if-changed={}", header.display());
    bindgen::Builder::default()
        .header(header.to_str().unwrap())
        .allowlist_file(".*/shim\\.h")
        // Functions are defined in Rust, not called from it.
        .ignore_functions()
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .derive_default(true)
        .generate_comments(false)
        .layout_tests(false)
        .generate()
        .expect("c/shim.h is valid C")
        .write_to_file(PathBuf::from(env::var("OUT_DIR").unwrap()).join("shim.rs"))
        .unwrap();
}
