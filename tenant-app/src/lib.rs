//! One site's learning platform. The process starts with its listening socket and its
//! configuration in hand, serves one site of one generation, and ends by itself when idle.
//! It never sees the control database.

// The process.
pub mod config;
pub mod hardening;
pub mod telemetry;
pub mod listener;
pub mod handover;
// What every handler gets, and the way of a request.
pub mod site;
pub mod fence;
pub mod authority;
pub mod storage;
pub mod settings;
pub mod routes;
pub mod rejection;
pub mod security_headers;
pub mod visit;
pub mod preview;
pub mod csrf;
pub mod form;
pub mod pages;
pub mod locales;
pub mod assets;
pub mod health;
// The nouns.
pub mod accounts;
pub mod home;
pub mod catalogue;
pub mod courses;
pub mod covers;
pub mod enrolments;
pub mod lessons;
pub mod progress;
pub mod files;
pub mod studio;

use std::time::Duration;

use anyhow::Context;
use control_types::{
    InstanceConfig,
    instance_config::{CONTROL_FD, LISTEN_FD},
};
use tokio::signal::unix::{SignalKind, signal};

/// Serves the site on the inherited sockets until idle or told to end.
///
/// # Errors
/// When a socket was not inherited or a part of the process cannot be made.
pub async fn run(config: InstanceConfig) -> anyhow::Result<listener::Ended> {
    let idle = match config.idle_exit_secs {
        0 => None,
        seconds => Some(Duration::from_secs(seconds.into())),
    };
    let listening = listener::inherited(LISTEN_FD).context("the listening socket (3)")?;
    let control = listener::inherited(CONTROL_FD).context("the control socket (4)")?;
    let twin = listening.try_clone().context("the listening socket (3)")?;
    tokio::spawn(handover::answer(control, twin));

    let mut terminated = signal(SignalKind::terminate())?;
    // The signal that also tells a worker of nginx to end when it is done; one that does not know it
    // is not disturbed by it.
    let mut succeeded = signal(SignalKind::window_change())?;
    let site = site::Site::new(config)?;
    tracing::info!(
        site.id = %site.id, site.slug = %site.slug, generation = %site.generation,
        "serving {}", site.slug
    );
    let router = routes::router(site);
    let orders = listener::Orders {
        replaced: async move {
            succeeded.recv().await;
        },
        shutdown: async move {
            terminated.recv().await;
        },
    };
    listener::serve(listening, router, idle, orders).await
}
