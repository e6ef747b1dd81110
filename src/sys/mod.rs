//! The outside: Linux, glommio and io_uring behind safe functions.
//!
//! Owns every `unsafe` block of the crate and every name of the runtime's crate. Nothing here
//! decides anything about metrics.

#![allow(unsafe_code, reason = "the one place where the kernel's interfaces are called")]

pub mod admin_socket;
pub mod at;
pub mod cgroup;
pub mod clock;
pub mod cpu;
pub mod datagrams;
pub mod doorbell;
pub mod executor;
pub mod file_systems;
pub mod files;
pub mod heap;
pub mod kept_directory;
pub mod local_time;
pub mod lock;
pub mod log_files;
pub mod mesh;
pub mod new_file;
pub mod port_group;
pub mod prefetch;
pub mod preflight;
pub mod process;
pub mod ring;
pub mod schedule;
pub mod socket;
