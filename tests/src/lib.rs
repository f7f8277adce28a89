//! What the stories are told with: the whole platform, started by the real `ta3lem up` from the
//! real binaries, and the people who use it.

pub mod binaries;
pub mod browser;
pub mod dns_server;
pub mod pebble;
pub mod places;
pub mod stack;
pub mod studio;
pub mod visitor;
pub mod way;

pub use stack::Stack;
pub use visitor::Visitor;
