//! Root only prepares: it makes the data directory for an unprivileged user, copies the binaries to
//! where that user can reach them, and becomes that user. Postgres refuses to run as root, and
//! nothing else needs it.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt as _, chown, symlink},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail, ensure};

use super::UpArgs;
use crate::data_dir::{DataDir, make_directory, random_secret};

/// Who takes over when `--run-as` is not given: the first that exists.
const CANDIDATES: &[&str] = &["ta3lem", "postgres", "nobody"];
/// What runs, all from one build.
pub const BINARIES: &[&str] = &["ta3lem", "router", "provisioner", "tenant-app"];

#[derive(Clone, Debug, PartialEq, Eq)]
struct User {
    name: String,
    id: u32,
    group: u32,
}

/// Becomes an unprivileged user and starts over as that. Returns only when that is impossible.
///
/// # Errors
/// Why it is impossible.
pub fn hand_over(args: &UpArgs, data: &DataDir) -> anyhow::Result<std::convert::Infallible> {
    let user = choose(args.run_as.as_deref(), &users()?)?;
    prepare(data, &user)?;
    if let Some(file) = &args.ready_file {
        link_ready_file(file, data)?;
    }
    let program = copy_binaries(data, &user)?;
    let mut command = Command::new(program);
    command.arg("up").arg("--data-dir").arg(data.root()).args(args.without_paths());
    command.current_dir("/").env("HOME", data.root());
    for variable in ["XDG_RUNTIME_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"] {
        command.env_remove(variable);
    }
    // Setting the user as root also gives up root's supplementary groups.
    let error = command.uid(user.id).gid(user.group).exec();
    Err(error).with_context(|| {
        format!("'{}' cannot run {}", user.name, data.bin().join("ta3lem").display())
    })
}

fn users() -> anyhow::Result<Vec<User>> {
    let text = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    Ok(text.lines().filter_map(parse_user).collect())
}

fn parse_user(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    let id = fields.nth(1)?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    Some(User { name, id, group })
}

fn choose(wanted: Option<&str>, users: &[User]) -> anyhow::Result<User> {
    let find = |name: &str| users.iter().find(|user| user.name == name).cloned();
    let user = match wanted {
        Some(name) => find(name).with_context(|| format!("--run-as: there is no user '{name}'"))?,
        None => CANDIDATES.iter().find_map(|name| find(name)).with_context(|| {
            format!("none of the users {} exists: name one with --run-as", CANDIDATES.join(", "))
        })?,
    };
    ensure!(user.id != 0, "--run-as: Postgres refuses to run as root");
    Ok(user)
}

/// The directory belongs to the user from the beginning. What is in it already is left alone.
fn prepare(data: &DataDir, user: &User) -> anyhow::Result<()> {
    use std::os::unix::fs::MetadataExt as _;

    let parent = data.root().parent().context("a directory has a parent")?;
    must_reach(parent, user)?;
    fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    match fs::symlink_metadata(data.root()) {
        Ok(metadata) if !metadata.is_dir() => bail!("{} is no directory", data.root().display()),
        Ok(metadata) if metadata.uid() == user.id => Ok(()),
        Ok(metadata) if metadata.uid() == 0 && fs::read_dir(data.root())?.next().is_none() => {
            own(data.root(), user)?;
            Ok(fs::set_permissions(data.root(), fs::Permissions::from_mode(0o700))?)
        }
        Ok(metadata) => bail!(
            "the data directory {} belongs to user id {}, not to '{}': run as that user with \
             --run-as, or choose another --data-dir",
            data.root().display(),
            metadata.uid(),
            user.name
        ),
        Err(_) => {
            make_directory(data.root())?;
            own(data.root(), user)
        }
    }
}

/// Checked before anything is made: below a directory that only root can enter nothing would work.
fn must_reach(directory: &Path, user: &User) -> anyhow::Result<()> {
    let existing = directory.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "test -x \"$1\"", "sh"]).arg(existing).current_dir("/");
    let reaches = shell.uid(user.id).gid(user.group).status().is_ok_and(|status| status.success());
    ensure!(
        reaches,
        "the user '{}', who is to run everything, cannot enter {}: choose another --data-dir, or \
         another user with --run-as",
        user.name,
        existing.display()
    );
    Ok(())
}

/// The user may not write where root wants the file, so root makes a link at `file` to the ready file inside the data directory. It leads nowhere until that is
/// written, so whoever waits for `file` sees it appear whole.
fn link_ready_file(file: &Path, data: &DataDir) -> anyhow::Result<()> {
    let aside = file.with_extension(format!("{}.new", &random_secret()[..8]));
    let linked = symlink(data.ready_file(), &aside).and_then(|()| fs::rename(&aside, file));
    linked.with_context(|| format!("--ready-file: cannot write {}", file.display()))
}

/// Copies what runs to where the user can reach it. Returns the copy of this program. Root only
/// reads; the user writes, so that no link in the user's directory can make root write elsewhere.
fn copy_binaries(data: &DataDir, user: &User) -> anyhow::Result<PathBuf> {
    const SCRIPT: &str = "set -e; umask 022; mkdir -p -m 700 \"$1\"; cat > \"$1/.$2.new\"; \
                          chmod 755 \"$1/.$2.new\"; mv \"$1/.$2.new\" \"$1/$2\"";
    let build = super::binaries_beside_this()?;
    let bin = data.bin();
    for name in BINARIES {
        let (from, to) = (build.join(name), bin.join(name));
        if from == to || same(&from, &to) {
            continue;
        }
        let copy = || format!("cannot copy {} to {}", from.display(), to.display());
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", SCRIPT, "sh"]).arg(&bin).arg(name).current_dir("/");
        shell.stdin(fs::File::open(&from).with_context(copy)?);
        let status = shell.uid(user.id).gid(user.group).status().with_context(copy)?;
        ensure!(status.success(), "{} as user '{}'", copy(), user.name);
    }
    Ok(bin.join("ta3lem"))
}

/// Whether a copy is there already: of the same size and not older.
fn same(from: &Path, to: &Path) -> bool {
    let (Ok(from), Ok(to)) = (fs::metadata(from), fs::symlink_metadata(to)) else { return false };
    let newer = match (from.modified(), to.modified()) {
        (Ok(from), Ok(to)) => to >= from,
        _ => false,
    };
    to.is_file() && from.len() == to.len() && newer
}

fn own(path: &Path, user: &User) -> anyhow::Result<()> {
    chown(path, Some(user.id), Some(user.group))
        .with_context(|| format!("cannot give {} to '{}'", path.display(), user.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_user_that_exists_takes_over() {
        let lines = ["root:x:0:0:root:/root:/bin/bash", "nobody:x:65534:65534::/:/bin/false"];
        let mut users: Vec<User> = lines.iter().filter_map(|line| parse_user(line)).collect();
        assert_eq!(choose(None, &users).expect("nobody").id, 65534);
        users.extend(parse_user("postgres:x:105:109:,,,:/var/lib/postgresql:/bin/bash"));
        let postgres = choose(None, &users).expect("postgres");
        assert_eq!((postgres.id, postgres.group), (105, 109));
        assert!(choose(Some("root"), &users).is_err());
        assert!(choose(Some("who"), &users).is_err());
    }
}
