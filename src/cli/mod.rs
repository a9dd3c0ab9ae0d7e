//! The command line: flags and environment, and what each command does.

mod args;
pub mod commands;
pub mod config;
pub mod serve;
