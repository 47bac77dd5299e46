//! What server, manager and worker say to each other in daemon mode.
//!
//! ```text
//!  server's worker ── frames ──► worker        one request at a time on each connection
//!        └────────── page ◄──────┘             what the worker shows of itself
//!  manager ◄─────── packets ─────► worker      one control connection for each worker
//! ```
//!
//! docs/daemon-link.md describes frames and page. Both sides of each may be of different releases for a
//! moment (a server that was not restarted after an upgrade), so each carries a version.

pub mod config;
pub mod control;
pub mod frame;
pub mod head;
pub mod log;
pub mod memory;
pub mod packet;
pub mod page;
pub mod request;
