//! What a call costs over standard input and output, beside a server whose tools do nothing.
//!
//! `cargo bench --bench wire` prints a table. Both servers are driven in turn in one sitting, since a shared machine is
//! faster at one time than at another; the figures are medians, and the ratios are what counts.

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
