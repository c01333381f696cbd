//! What the benchmarks share: their table, and functions to measure and print figures.

/// The number of samples of a median.
const SAMPLES: usize = 5;

/// A row: what is measured, the figure to reach, and how it is measured.
pub type Measurement = (&'static str, &'static str, fn() -> String);

/// Measures the rows that the arguments name, or all, and prints them as a markdown table.
#[expect(clippy::print_stdout, reason = "the table is what a bench is for")]
pub fn print(measurements: &[Measurement]) {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    println!("| what | figure to reach | measured (median of {SAMPLES}) |\n|---|---|---|");
    for (what, figure, measure) in measurements {
        if wanted.is_empty() || wanted.iter().any(|word| what.contains(word.as_str())) {
            let measured = measure();
            println!("| {what} | {figure} | {measured} |");
        }
    }
}

/// Returns the median of several samples.
pub fn median(mut sample: impl FnMut() -> f64) -> f64 {
    let mut samples = [0.0; SAMPLES].map(|_: f64| sample());
    samples.sort_by(f64::total_cmp);
    samples[SAMPLES / 2]
}

pub fn milliseconds(seconds: f64) -> String {
    format!("{:.2} ms", seconds * 1_000.0)
}

/// Formats a number with commas, rounded.
pub fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}

/// Returns the resident memory of the process, in bytes. The lints forbid a counting allocator.
pub fn resident_bytes() -> Option<u64> {
    const PAGE_BYTES: u64 = 4_096;
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * PAGE_BYTES)
}
