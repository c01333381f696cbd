//! The process: reads its settings, starts the log and runs the application.

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

use cli::Start;
use cortex_config::Settings;
#[cfg(unix)]
use cortex_runtime as runtime;
use cortex_serving::{STARTUP_ERROR_EXIT_CODE, StartupError};
use cortex_telemetry as telemetry;

/// How long the end of the process waits for its last word to be read: nobody may be reading standard error.
const LAST_WORD_WAIT_MAX: Duration = Duration::from_millis(250);

fn main() -> ExitCode {
    #[cfg(unix)]
    if let Some(code) = runtime::subcommand::run(env::args_os().skip(1)) {
        return code;
    }
    match cli::start(env::args_os().skip(1), |name| env::var_os(name)) {
        Ok(Start::Print(text)) => print(&text),
        Ok(Start::Serve(configuration)) => logged(&configuration.settings, || app::run(&configuration)),
        // The daemon chooses by itself where its log goes.
        Ok(Start::Daemon(configuration)) => ended(app::daemon(&configuration)),
        Ok(Start::Status(configuration)) => printed(app::status(&configuration)),
        Ok(Start::Stop(configuration)) => printed(app::stop(&configuration)),
        Ok(Start::Events(configuration, filter)) => ended(app::events(&configuration, &filter)),
        #[cfg(unix)]
        Ok(Start::Demo) => ended(demo::run()),
        #[cfg(unix)]
        Ok(Start::DemoServer) => ended(demo::serve()),
        Ok(Start::Verify(configuration)) => ended(app::verify(&configuration)),
        Ok(Start::Simulate(configuration, asked)) => ended(app::simulate(&configuration, &asked)),
        Err(error) => fail(&error, cli::WRONG_USE_EXIT_CODE),
    }
}

/// Runs with the log on standard error.
fn logged(settings: &Settings, run: impl FnOnce() -> anyhow::Result<ExitCode>) -> ExitCode {
    let guard = match telemetry::init(settings.log_level, settings.log_format) {
        Ok(guard) => guard,
        Err(error) => return fail(&error, 1),
    };
    let result = run().or_else(|error| {
        if error.is::<StartupError>() {
            return Err(error);
        }
        // Not straight to standard error, which nobody may be reading.
        tracing::error!("{error:#}");
        Ok(ExitCode::FAILURE)
    });
    // The last word stands behind the log.
    drop(guard);
    ended(result)
}

/// The exit code of what was done, and its error as one line.
fn ended(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        let code = if error.is::<StartupError>() { STARTUP_ERROR_EXIT_CODE } else { 1 };
        fail(&format_args!("{error:#}"), code)
    })
}

/// Prints what a command found.
fn printed(result: anyhow::Result<String>) -> ExitCode {
    match result {
        Ok(text) => print(&text),
        Err(error) => ended(Err(error)),
    }
}

/// Writes a text to standard output. A reader that went away has read what it wanted.
fn print(text: &str) -> ExitCode {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            fail(&format_args!("standard output cannot be written: {error}"), 1)
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Writes an error to standard error, as one line. If that fails as well, the exit code has to do.
fn fail(error: &dyn Display, code: u8) -> ExitCode {
    let line = format!("error: {error}\n");
    let (done, written) = mpsc::channel();
    // A full pipe that nobody reads must not keep the process from ending.
    thread::spawn(move || {
        let _ = io::stderr().write_all(line.as_bytes());
        let _ = done.send(());
    });
    let _ = written.recv_timeout(LAST_WORD_WAIT_MAX);
    ExitCode::from(code)
}
