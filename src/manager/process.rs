//! The manager's own process.

use super::{
    inbox::{Event, Inbox},
    log::Level,
    protocol::Configuration,
    Role,
};
use crate::settings::ServerKind;
use std::io;

pub fn run(server: ServerKind, instance: &str) -> io::Result<()> {
    let mut inbox = Inbox::open(Role::Manager, server)?;
    inbox.log.write(Level::Notice, &format!("started, instance {instance}"));
    let mut generation = 0;
    loop {
        match inbox.next(None, None)? {
            Event::Configure(file) => match Configuration::from_file(file) {
                Ok(configuration) => generation = configuration.generation,
                Err(error) => {
                    inbox.log.write(Level::Error, &format!("keeps configuration {generation}: {error}"))
                }
            },
            Event::Stop { reason, .. } => {
                inbox.log.write(Level::Notice, &format!("ends at configuration {generation}: {reason}"));
                return Ok(());
            }
            // Neither was asked for.
            Event::ChildEnded | Event::Due => {}
        }
    }
}
