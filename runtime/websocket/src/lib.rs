//! The WebSocket protocol (RFC 6455) of a server, with permessage-deflate (RFC 7692): a state machine that is
//! given bytes and gives events and bytes. It knows no sockets, clocks or Python.
//!
//! [`handshake`] reads a request; [`Connection`] is what follows the answer.

pub mod close;
mod connection;
mod deflate;
mod extensions;
mod frame;
pub mod handshake;
mod receiver;

pub use close::Close;
pub use connection::{Connection, Event};
pub use extensions::Deflate;
pub use frame::Kind;
pub use handshake::Handshake;
