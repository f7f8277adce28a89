//! Two real routers of two regions over a real control database: what is at home elsewhere goes
//! there, and what authorities and load balancers say is understood. The parts are in `regions/`
//! and `edge/`.

#![allow(clippy::expect_used, clippy::panic, reason = "a test ends where it is disappointed")]

#[path = "edge/client.rs"]
#[allow(dead_code, reason = "another test uses more of it")]
mod client;
#[path = "edge/control_database.rs"]
#[allow(dead_code, reason = "another test uses more of it")]
mod control_database;
#[path = "edge/instance.rs"]
#[allow(dead_code, reason = "another test uses more of it")]
mod instance;
#[path = "regions/challenges.rs"]
mod challenges;
#[path = "http3/client.rs"]
#[allow(dead_code, reason = "another test uses more of it")]
mod http3_client;
#[path = "regions/gone.rs"]
mod gone;
#[path = "regions/hello.rs"]
mod hello;
#[path = "regions/late_news.rs"]
mod late_news;
#[path = "regions/http3.rs"]
mod http3;
#[path = "regions/moved.rs"]
mod moved;
#[path = "regions/passed_on.rs"]
mod passed_on;
#[path = "regions/stack.rs"]
mod stack;
#[path = "regions/wire.rs"]
mod wire;
