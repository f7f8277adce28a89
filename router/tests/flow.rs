//! Stories about how requests flow through the real router: held sites, limits, attacks on HTTP/2.
//! The parts are those of `edge.rs`.

#![allow(clippy::expect_used, clippy::panic, reason = "a test ends where it is disappointed")]
#![allow(dead_code, reason = "the parts are shared, and no story uses all of them")]

#[path = "edge/instance.rs"]
mod instance;
#[path = "edge/client.rs"]
mod client;
#[path = "edge/control_database.rs"]
mod control_database;
#[path = "edge/frames.rs"]
mod frames;
#[path = "edge/stack.rs"]
mod stack;
#[path = "flow/attacks.rs"]
mod attacks;
#[path = "flow/hold.rs"]
mod hold;
#[path = "flow/limits.rs"]
mod limits;
#[path = "flow/quiet.rs"]
mod quiet;
#[path = "flow/slow.rs"]
mod slow;
#[path = "flow/slowhttptest.rs"]
mod slowhttptest;
#[path = "flow/streams.rs"]
mod streams;

use client::{get, keep, post};

const A: &str = "alpha.platform.test";
const B: &str = "beta.platform.test";
