//! What the CLI reads from its environment besides the variables that stand in `--help`. Read
//! once, here.

use std::{env, ffi::OsString, path::PathBuf};

/// The variables, as they were at the start.
#[derive(Clone, Default)]
pub struct Environment {
    /// Colours are not wanted (`NO_COLOR`, or `TERM=dumb`).
    pub no_color: bool,
    /// Where a user's data lies (`XDG_DATA_HOME`).
    pub xdg_data_home: Option<PathBuf>,
    /// The user's home directory.
    pub home: Option<PathBuf>,
    /// The token itself (`TA3LEM_TOKEN`); never an argument, since everybody can read those.
    pub token: Option<OsString>,
}

impl Environment {
    /// Reads it.
    pub fn read() -> Self {
        let filled = |name| env::var_os(name).filter(|value| !value.is_empty());
        Self {
            no_color: filled("NO_COLOR").is_some()
                || env::var_os("TERM").is_some_and(|term| term == "dumb"),
            xdg_data_home: filled("XDG_DATA_HOME").map(PathBuf::from).filter(|p| p.is_absolute()),
            home: env::home_dir().filter(|path| path.is_absolute()),
            token: filled("TA3LEM_TOKEN"),
        }
    }
}
