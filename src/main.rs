//! The `carbyne` program: hands the command line to [`carbyne::cli`] and exits with its status.

use std::io;
use std::process::ExitCode;

use carbyne::cli::{self, Command};
use carbyne::node;

fn main() -> ExitCode {
    // Not locked: other threads write to standard error while a node runs.
    let (mut out, mut err) = (io::stdout(), io::stderr());
    let command = match cli::parse(std::env::args_os().skip(1)) {
        Ok(Command::Query(query)) => return cli::run_query(&query, &mut out, &mut err),
        Ok(Command::Offline(command)) => return cli::run_offline(&command, &mut out, &mut err),
        Ok(command) => command,
        Err(error) => return error.report(&mut err),
    };
    let path = match &command {
        Command::Serve { config: path, .. }
        | Command::Forget { config: path, .. }
        | Command::Drain(path) => path.as_deref(),
        Command::Query(_) | Command::Offline(_) => None,
    };
    match cli::load(path) {
        Ok((config, _)) if matches!(command, Command::Drain(_)) => {
            node::drain(&config, &mut out, &mut err)
        }
        Ok((config, _)) if let Command::Forget { forget, .. } = &command => {
            cli::run_forget(&config, forget, &mut out, &mut err)
        }
        Ok((config, notices)) => {
            let takes_over = matches!(command, Command::Serve { takes_over: true, .. });
            node::serve(&config, &notices, takes_over)
        }
        Err(errors) => cli::report(&errors, &mut err).map_or(ExitCode::FAILURE, ExitCode::from),
    }
}
