//! The log of a site's instances: one file that their processes append to, and one older one.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use control_types::Slug;

/// A larger file is put aside at the next start.
const ROTATE_BYTES: u64 = 10 * 1024 * 1024;
/// How much of a file's end is searched for its last line.
const TAIL_BYTES: u64 = 4096;
/// The longest line that is quoted.
const QUOTE_CHARS: usize = 300;

/// A site's log file.
#[derive(Clone, Debug)]
pub struct LogFile {
    /// The file.
    pub path: PathBuf,
}

impl LogFile {
    /// The one of this site.
    pub fn of(logs: &Path, slug: &Slug) -> Self {
        Self { path: logs.join(format!("{slug}.log")) }
    }

    /// Opens it to append, after putting a large one aside. Also answers where it ends, which is
    /// where the next process begins to write.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn open(&self) -> io::Result<(File, u64)> {
        let long = |meta: std::fs::Metadata| meta.len() > ROTATE_BYTES;
        if std::fs::metadata(&self.path).is_ok_and(long) {
            std::fs::rename(&self.path, self.path.with_extension("log.1"))?;
        }
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        let end = file.metadata()?.len();
        Ok((file, end))
    }

    /// The last line that was written at or after `from`.
    pub fn last_line(&self, from: u64) -> Option<String> {
        let mut file = File::open(&self.path).ok()?;
        let end = file.metadata().ok()?.len();
        file.seek(SeekFrom::Start(from.max(end.saturating_sub(TAIL_BYTES)))).ok()?;
        let mut tail = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut tail).ok()?;
        let text = String::from_utf8_lossy(&tail);
        let line = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
        Some(line.chars().take(QUOTE_CHARS).collect())
    }
}
