//! Measures the time that the bridge adds to a call, and the calls per second through one child.
//!
//! `cargo bench --bench bridge` prints a table. The child is another process whose tools do nothing, and the load comes
//! from another thread, so that they share the cores of the machine. The figures are medians of several runs,
//! alternating with and without the bridge, since the speed of a shared machine varies over time.

mod child;
mod load;

const RUNS: usize = 5;

#[expect(clippy::print_stdout, reason = "the table is what a bench is for")]
fn main() {
    if std::env::args().nth(1).as_deref() == Some("--child") {
        return child::run();
    }
    let runs = [0; RUNS].map(|_| [load::direct_seconds(), load::through_seconds(), load::calls_per_second()]);
    let median = |column: usize| {
        let mut figures = runs.map(|run| run[column]);
        figures.sort_by(f64::total_cmp);
        figures[RUNS / 2]
    };
    let (direct, through, calls) = (median(0) * 1e6, median(1) * 1e6, median(2));
    let added = through - direct;
    println!("| what | figure to reach | measured (median of {RUNS}) |\n|---|---|---|");
    println!("| a call over the child's own pipes, one at a time | | {direct:.0} µs |");
    println!("| the same through the bridge | ≤ 500 µs more | {through:.0} µs ({added:.0} µs more) |");
    println!("| calls/s through one child, 32 sessions | ≥ 6,000 | {calls:.0} |");
}
