//! The environment variables that make a test run longer.

/// Returns the whole number in a variable, or the default that `cargo test` uses.
pub fn setting(name: &str, default: u64) -> u64 {
    let Ok(text) = std::env::var(name) else { return default };
    text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}: give a whole number"))
}
