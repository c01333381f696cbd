//! The variables by which the long runs of a test are asked for.

/// The whole number in a variable, or the one that `cargo test` takes.
pub fn setting(name: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(name) else { return default };
    text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}: give a whole number"))
}
