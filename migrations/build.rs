//! The SQL files are part of the library: a new or changed one makes it be built again.

fn main() {
    println!("cargo::rerun-if-changed=control");
    println!("cargo::rerun-if-changed=site");
}
