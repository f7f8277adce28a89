//! The threads that serve connections: one for each core, each with a runtime of its own, so that a
//! request stays on the core that accepted it and never wakes another one. They share the listening
//! sockets. What must go on beside (reading the control database, writing the snapshot) runs elsewhere
//! and cannot hold them up.

use std::{io, net::TcpListener, sync::Arc, thread::JoinHandle};

use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    Edge,
    http3::entrance::{self, Entrance},
    listener::{self, Door},
    watchdog::Heart,
};

/// The running threads.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    cut: CancellationToken,
    /// Shows that each thread still turns.
    pub hearts: Vec<Arc<Heart>>,
    failed: mpsc::UnboundedReceiver<String>,
}

impl Workers {
    /// Starts `count` threads that accept at all of `doors`, and at the entrance of HTTP/3 if there is
    /// one.
    ///
    /// # Errors
    /// When the system gives no thread, or a socket cannot be shared.
    pub fn start(
        edge: &Arc<Edge>,
        count: usize,
        doors: &[Door<TcpListener>],
        http3: Option<&Entrance>,
    ) -> io::Result<Self> {
        let cut = CancellationToken::new();
        let (tell, failed) = mpsc::unbounded_channel();
        let mut workers = Self { threads: Vec::new(), cut, hearts: Vec::new(), failed };
        for number in 0..count {
            let heart = Arc::new(Heart::default());
            let worker = Worker {
                edge: Arc::clone(edge),
                http3: http3.cloned(),
                doors: doors.iter().map(Door::try_clone).collect::<io::Result<_>>()?,
                cut: workers.cut.clone(),
                heart: Arc::clone(&heart),
            };
            let tell = tell.clone();
            let thread = std::thread::Builder::new().name(format!("worker-{number}"));
            workers.threads.push(thread.spawn(move || {
                if let Err(error) = worker.run() {
                    // Nobody listens any more: the router is stopping anyway.
                    let _ = tell.send(format!("worker {number}: {error}"));
                }
            })?);
            workers.hearts.push(heart);
        }
        Ok(workers)
    }

    /// Why one of them ended. They do not end by themselves.
    pub async fn failed(&mut self) -> String {
        self.failed.recv().await.unwrap_or_else(|| "all workers ended".to_owned())
    }

    /// Ends them, whatever they are doing.
    pub fn cut(self) {
        self.cut.cancel();
        for thread in self.threads {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

struct Worker {
    edge: Arc<Edge>,
    doors: Vec<Door<TcpListener>>,
    http3: Option<Entrance>,
    cut: CancellationToken,
    heart: Arc<Heart>,
}

impl Worker {
    fn run(self) -> Result<(), String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        runtime.block_on(async {
            let mut parts = JoinSet::new();
            parts.spawn(self.heart.beat());
            // All doors have the same limit.
            let most = self.doors.first().map(|door| Arc::clone(&door.most));
            if let (Some(entrance), Some(most)) = (self.http3, most) {
                parts.spawn(entrance::serve(Arc::clone(&self.edge), entrance, most));
            }
            for door in self.doors {
                let door = door.open().map_err(|error| error.to_string())?;
                parts.spawn(listener::serve(Arc::clone(&self.edge), door));
            }
            loop {
                tokio::select! {
                    () = self.cut.cancelled() => return Ok(()),
                    Some(ended) = parts.join_next() => match ended {
                        // The doors close when the router stops; connections go on.
                        Ok(()) if self.edge.is_stopping() => {}
                        Ok(()) => return Err("a listener ended".to_owned()),
                        Err(error) => return Err(error.to_string()),
                    },
                }
            }
        })
    }
}
