//! The `carbyne` program: hands the command line to [`carbyne::cli`] and exits with its status.

use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

use carbyne::cli::{self, Command};
use carbyne::{node, toolbox};

fn main() -> ExitCode {
    // Not locked: other threads write to standard error while a node runs.
    let (mut out, mut err) = (io::stdout(), io::stderr());
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|word| word == "whisper") {
        return toolbox::run_tree(&args[1..], &mut out, &mut err);
    }
    let path = match cli::parse(args) {
        Ok(Command::Serve(path)) => path,
        Ok(Command::Offline(command)) => return cli::run_offline(&command, &mut out, &mut err),
        Err(error) => return error.report(&mut err),
    };
    match cli::load(path.as_deref()) {
        Ok((config, notices)) => node::serve(&config, &notices),
        Err(errors) => cli::report(&errors, &mut err).map_or(ExitCode::FAILURE, ExitCode::from),
    }
}
