//! Programs that run behind everybody else, and end with the keeper.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::{process::Command, sync::OnceCell};

use super::priority::NICE;
use crate::config;

/// What ends a program when the keeper is killed, where the system can do that.
#[derive(Clone, Copy, Debug)]
pub enum EndsBy {
    /// SIGKILL.
    Kill,
    /// SIGQUIT: a server ends at once, and gives back what it shares with its processes.
    Quit,
}

/// A command that runs a program so. It is not led elsewhere by the environment, has no input, and is
/// killed when it is dropped.
pub async fn command(program: &Path, ends_by: EndsBy) -> Command {
    let mut command = Command::new("nice");
    command.args(["-n", &NICE.to_string()]);
    if let Some(setpriv) = setpriv().await {
        let signal = match ends_by {
            EndsBy::Kill => "KILL",
            EndsBy::Quit => "QUIT",
        };
        command.arg(setpriv).args(["--pdeathsig", signal]);
    }
    command.arg(program).current_dir("/").stdin(Stdio::null()).kill_on_drop(true);
    for variable in config::postgres_variables() {
        command.env_remove(variable);
    }
    command
}

/// The program that ties a process to its parent. Not every Linux has one that can.
async fn setpriv() -> Option<&'static Path> {
    static FOUND: OnceCell<Option<PathBuf>> = OnceCell::const_new();
    let found = FOUND.get_or_init(|| async {
        let mut candidates = config::search_path().into_iter().map(|path| path.join("setpriv"));
        let setpriv = candidates.find(|program| program.is_file())?;
        let mut command = Command::new(&setpriv);
        command.args(["--pdeathsig", "KILL", "true"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().await.is_ok_and(|status| status.success()).then_some(setpriv)
    });
    found.await.as_deref()
}
