//! The process: reads its settings, starts the log and runs the application.

use std::{
    env,
    fmt::Display,
    io::{self, Write},
    process::ExitCode,
};

use cortex_resource_manager::{
    app,
    cli::{self, Start},
    telemetry,
};

fn main() -> ExitCode {
    match cli::start(env::args_os().skip(1), |name| env::var_os(name)) {
        Ok(Start::Print(text)) => print(&text),
        Ok(Start::Serve(configuration)) => {
            let settings = &configuration.settings;
            match telemetry::init(settings.log_level, settings.log_format) {
                Ok(_guard) => app::run(settings).unwrap_or_else(|error| {
                    // Not straight to standard error, which nobody may be reading.
                    tracing::error!("{error:#}");
                    ExitCode::FAILURE
                }),
                Err(error) => fail(&error, 1),
            }
        }
        Err(error) => fail(&error, cli::WRONG_USE_EXIT_CODE),
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
    let _ = writeln!(io::stderr(), "error: {error}");
    ExitCode::from(code)
}
