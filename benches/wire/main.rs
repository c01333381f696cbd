//! Measures the time of a call over standard input and output, compared with a server whose tools do nothing.
//!
//! `cargo bench --bench wire` prints a table. The runs alternate between both servers, since the speed of a shared
//! machine varies over time. The figures are medians, and the ratios are the relevant results.

#[cfg(unix)]
mod driver;
mod empty_server;

#[cfg(unix)]
fn main() {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("--empty-server") => empty_server::run(arguments.next().as_deref() == Some("socket")),
        _ => driver::table(),
    }
}

#[cfg(not(unix))]
fn main() {
    if std::env::args().nth(1).as_deref() == Some("--empty-server") {
        empty_server::run(false);
    }
}
