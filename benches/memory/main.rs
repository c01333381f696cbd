//! The memory of MCP servers that others wrote: leased and shared by ten jobs, and started by each job for itself.
//!
//! `cargo bench --bench memory` prints a table. The servers are those that `.ci/servers` installs; without them nothing is
//! measured, and the rows say what is missing. The same jobs do the same on both sides, in turn. What is measured is the
//! proportional set size (PSS) of all processes of a side, in which what several have is counted once between them. On the
//! side of the manager these are also the daemon, the guardians, and a session for each job. Only Linux tells it.

#[cfg(target_os = "linux")]
mod jobs;
#[cfg(target_os = "linux")]
mod processes;

const RUNS: usize = 3;

#[expect(clippy::print_stdout, reason = "the table is what a bench is for")]
fn main() {
    let [at_once, steady] = measured().unwrap_or_else(|missing| [(); 2].map(|()| format!("not measured: {missing}")));
    println!("| what | figure to reach | measured (median of {RUNS}) |\n|---|---|---|");
    println!(
        "| memory of 10 jobs that share 5 real servers, right after their calls | ≥ 5x less than with their own | {at_once} |"
    );
    println!("| the same once it is steady for 30 s | ≥ 5x less than with their own | {steady} |");
}

/// What is measured, or what is missing for it.
#[cfg(target_os = "linux")]
fn measured() -> Result<[String; 2], String> {
    jobs::check_installed()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let runs = [0; RUNS].map(|_| (runtime.block_on(jobs::sharing_mib()), runtime.block_on(jobs::each_its_own_mib())));
    Ok([0, 1].map(|when: usize| {
        let [shared, own, ratio] = [0, 1, 2].map(|column: usize| {
            let of = |(shared, own): ([f64; 2], [f64; 2])| [shared[when], own[when], own[when] / shared[when]];
            let mut figures = runs.map(|run| of(run)[column]);
            figures.sort_by(f64::total_cmp);
            figures[RUNS / 2]
        });
        format!("{shared:.0} MiB against {own:.0} MiB: {ratio:.1}x less")
    }))
}

#[cfg(not(target_os = "linux"))]
fn measured() -> Result<[String; 2], String> {
    Err("it needs Linux".to_owned())
}
