//! What the process gives up before it is told any secret.

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// Makes the process's memory unreadable to others of the same user (no core dump, no ptrace, no
/// `/proc/<pid>/mem`) and forbids gaining privileges.
///
/// # Errors
/// When the kernel refuses.
pub fn harden() -> rustix::io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::thread::set_no_new_privs(true)
}
