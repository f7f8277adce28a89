//! How much of both places a change of place takes for itself while people use them.

use serde::{Deserialize, Serialize};

use crate::site_storage::CopySettings;

/// How fast everything is copied and compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pace {
    /// A small part of a processor at each place: other sites shall not notice.
    #[default]
    Gentle,
    /// As fast as it goes.
    Fast,
}

impl Pace {
    /// The one that was asked for.
    pub const fn asked(fast: bool) -> Self {
        if fast { Self::Fast } else { Self::Gentle }
    }

    /// Who worked rests for so many times as long.
    pub const fn rest(self) -> f64 {
        match self {
            Self::Gentle => 4.0,
            Self::Fast => 0.0,
        }
    }

    /// For files.
    pub const fn files(self) -> CopySettings {
        match self {
            Self::Gentle => CopySettings { parallel: 2, bytes_per_second: Some(16 * 1024 * 1024) },
            Self::Fast => CopySettings { parallel: 8, bytes_per_second: None },
        }
    }

    /// Bytes of rows that arrive in a second on a small server, for estimates.
    pub const fn rows_per_second(self) -> u64 {
        match self {
            Self::Gentle => 4 * 1024 * 1024,
            Self::Fast => 20 * 1024 * 1024,
        }
    }
}
