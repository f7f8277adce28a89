//! What brings the platform up on one machine, and looks after it there. Subcommands that only
//! speak to the provisioner's API are in the binary.

pub mod config;
pub mod data_dir;
pub mod object_store;
pub mod keeper;
pub mod up;
pub mod down;
pub mod doctor;
