//! The host: everything between a web server and the Python runtime. It links no Python.

pub mod apache;
pub mod daemon;
pub mod embedded;
pub mod hooks;
pub mod manager;
pub mod nginx;
pub mod proxies;
pub mod python;
pub mod settings;
