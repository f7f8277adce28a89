//! Stories over the real binary, a real Postgres and a real S3 endpoint. The instance runs as a
//! role that owns nothing, as in production.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a story that cannot go on has failed; the exemption for tests misses their support"
)]

mod support;

mod accounts;
mod content_files;
mod learning;
mod moved;
mod preview;
mod process;
mod studio;
