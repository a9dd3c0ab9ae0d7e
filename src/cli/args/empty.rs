//! Empty variables and empty values of flags (`docs/configuration.md`, "Empty values").

use std::ffi::OsString;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory, Error, FromArgMatches};

use super::Cli;

/// Starts of the variables of identity. Without such a setting a server accepts other callers, so an empty
/// one is an error: its value was lost on the way.
const IDENTITY: [&str; 4] =
    ["MARKREAD_JWT_", "MARKREAD_OAUTH1_", "MARKREAD_TRUSTED_CLIENT", "MARKREAD_CLIENT_CA"];

/// The flag that may be empty: user objects are then at keys that are the user ID alone.
const MAY_BE_EMPTY: &str = "user-key-prefix";

/// Parses a command line and the environment, in which an empty variable counts as unset.
///
/// # Errors
///
/// clap's error, or an option that must not be empty.
pub(in crate::cli) fn parse(args: &[OsString]) -> Result<Cli, Error> {
    let command = Cli::command();
    match without_empty_variables(command.clone()).try_get_matches_from(args) {
        Ok(matches) => {
            refuse_empty(&command, &matches)?;
            Cli::from_arg_matches(&matches)
        }
        // The help names empty variables too.
        Err(error) if error.kind() == ErrorKind::DisplayHelp => {
            Err(command.try_get_matches_from(args).err().unwrap_or(error))
        }
        Err(error) => Err(missing_since_empty(&error).unwrap_or(error)),
    }
}

/// clap reads the environment when an option is defined, and takes an empty variable for an empty value.
fn without_empty_variables(command: Command) -> Command {
    command
        .mut_args(|arg| if has_empty_variable(&arg) { arg.env(Resettable::Reset) } else { arg })
        .mut_subcommands(without_empty_variables)
}

fn has_empty_variable(arg: &Arg) -> bool {
    arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty())
}

fn refuse_empty(command: &Command, matches: &ArgMatches) -> Result<(), Error> {
    if let Some((name, matches)) = matches.subcommand()
        && let Some(command) = command.find_subcommand(name)
    {
        return refuse_empty(command, matches);
    }
    match command.get_arguments().find_map(|option| problem(option, matches)) {
        Some(problem) => Err(Error::raw(ErrorKind::ValueValidation, problem)),
        None => Ok(()),
    }
}

/// Returns the problem of an option that is empty and must not be.
fn problem(option: &Arg, matches: &ArgMatches) -> Option<String> {
    let flag = option.get_long().filter(|flag| *flag != MAY_BE_EMPTY)?;
    let variable = option.get_env()?.to_string_lossy();
    let is_identity = IDENTITY.iter().any(|start| variable.starts_with(start));
    let id = option.get_id().as_str();
    let has_empty_value = matches.get_raw(id).into_iter().flatten().any(|value| {
        let value = value.as_encoded_bytes();
        value.is_empty() || is_identity && value.trim_ascii().is_empty()
    });
    let subject = match matches.value_source(id) {
        Some(ValueSource::CommandLine) if has_empty_value => format!("--{flag} is empty: it"),
        Some(ValueSource::EnvVariable) if has_empty_value => {
            format!("{variable} is empty: --{flag}")
        }
        None if is_identity && has_empty_variable(option) => {
            format!("{variable} is empty: --{flag}")
        }
        _ => return None,
    };
    Some(format!("{subject} must have a value, or be left out"))
}

/// Returns the error for a required option whose variable is empty.
fn missing_since_empty(error: &Error) -> Option<Error> {
    if error.kind() != ErrorKind::MissingRequiredArgument {
        return None;
    }
    let Some(ContextValue::Strings(missing)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    missing.iter().find_map(|option| {
        let flag = option.split(' ').next()?.strip_prefix("--")?;
        let variable = format!("MARKREAD_{}", flag.replace('-', "_").to_uppercase());
        std::env::var_os(&variable).filter(|value| value.is_empty())?;
        let problem = format!("{variable} is empty: --{flag} must have a value");
        Some(Error::raw(ErrorKind::MissingRequiredArgument, problem))
    })
}
