//! The entry point: parses the arguments, starts the log and runs the command.

mod app;
mod audit;
mod cli;
#[cfg(unix)]
mod demo;

use std::{
    env,
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
    sync::mpsc,
    thread,
    time::Duration,
};

use cli::Invocation;
use cortex_config::Settings;
#[cfg(unix)]
use cortex_runtime as runtime;
use cortex_serving::{STARTUP_ERROR_EXIT_CODE, StartupError};
use cortex_telemetry as telemetry;

/// How long the process waits at its end to write an error: standard error may be a full pipe that is not read.
const ERROR_WRITE_WAIT_MAX: Duration = Duration::from_millis(250);

fn main() -> ExitCode {
    #[cfg(unix)]
    if let Some(code) = runtime::process::subcommand::run(env::args_os().skip(1)) {
        return code;
    }
    match cli::parse(env::args_os().skip(1), |name| env::var_os(name)) {
        Ok(Invocation::Print(text)) => print(&text),
        Ok(Invocation::Serve(configuration)) => run_with_log(&configuration.settings, || app::run(&configuration)),
        // The daemon opens its own log.
        Ok(Invocation::Daemon(configuration)) => exit_code(app::daemon(&configuration)),
        Ok(Invocation::Status(configuration)) => print_result(app::status(&configuration)),
        Ok(Invocation::Stop(configuration)) => print_result(app::stop(&configuration)),
        Ok(Invocation::Events(configuration, filter)) => exit_code(app::events(&configuration, &filter)),
        #[cfg(unix)]
        Ok(Invocation::Demo) => exit_code(demo::run()),
        #[cfg(unix)]
        Ok(Invocation::DemoServer) => exit_code(demo::serve()),
        Ok(Invocation::Verify(configuration)) => exit_code(app::verify(&configuration)),
        Ok(Invocation::Simulate(configuration, options)) => exit_code(app::simulate(&configuration, &options)),
        Err(error) => fail(&error, cli::USAGE_ERROR_EXIT_CODE),
    }
}

/// Runs with the log on standard error.
fn run_with_log(settings: &Settings, run: impl FnOnce() -> anyhow::Result<ExitCode>) -> ExitCode {
    let guard = match telemetry::init(settings.log_level, settings.log_format) {
        Ok(guard) => guard,
        Err(error) => return fail(&error, 1),
    };
    let result = run().or_else(|error| {
        if error.is::<StartupError>() {
            return Err(error);
        }
        // Through the log, since standard error may be a full pipe that is not read.
        tracing::error!("{error:#}");
        Ok(ExitCode::FAILURE)
    });
    // Flushes the log, so that the error is the last line.
    drop(guard);
    exit_code(result)
}

/// Converts the result to an exit code, and writes an error as one line.
fn exit_code(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        let code = if error.is::<StartupError>() { STARTUP_ERROR_EXIT_CODE } else { 1 };
        fail(&format_args!("{error:#}"), code)
    })
}

/// Prints the output of a command, or its error.
fn print_result(result: anyhow::Result<String>) -> ExitCode {
    match result {
        Ok(text) => print(&text),
        Err(error) => exit_code(Err(error)),
    }
}

/// Writes a text to standard output. A closed pipe is not an error: the reader has read what it wanted.
fn print(text: &str) -> ExitCode {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            fail(&format_args!("failed to write to standard output: {error}"), 1)
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Writes an error to standard error, as one line. If that fails, the exit code alone reports it.
fn fail(error: &dyn Display, code: u8) -> ExitCode {
    let line = format!("error: {error}\n");
    let (done, written) = mpsc::channel();
    // A full pipe that is not read must not block the end of the process.
    thread::spawn(move || {
        let _ = io::stderr().write_all(line.as_bytes());
        let _ = done.send(());
    });
    let _ = written.recv_timeout(ERROR_WRITE_WAIT_MAX);
    ExitCode::from(code)
}
