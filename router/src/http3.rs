//! HTTP/3, where the configuration gives it an address (`http3_listen`). Without one there is no socket
//! and no thread, and other requests pay one look at an empty place.
//!
//! A thread of its own reads the UDP socket, so that a flood of datagrams is no worker's burden; the
//! workers take the connections it finds, and each stays with the worker that took it. A request goes
//! the same way as all others (`request`): here is only what makes a QUIC stream look like one.
//!
//! A client learns of it from `Alt-Svc` and can always go back to TCP. That is what it does whenever
//! something is not to its liking here, so the rule is to refuse at once and never to be silent: a
//! handshake for a site of another region, an address over its limits, a router that stops.

pub mod door;
pub mod entrance;
mod connection;
mod exchange;
pub mod upload;
mod gate;
mod quic;
mod frames;
pub mod offer;
