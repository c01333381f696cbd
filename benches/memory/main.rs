//! Measures the memory of third-party MCP servers: leased and shared by ten jobs, or started by each job.
//!
//! `cargo bench --bench memory` prints a table. `.ci/servers` installs the servers; without them nothing is measured,
//! and the rows state what is missing. The runs alternate between both sides, which perform the same calls. The figure
//! is the proportional set size (PSS) of all processes of a side, which counts shared memory once. On the side of the
//! manager it includes the daemon, the guardians, and a session for each job. Only Linux reports the PSS.

#[cfg(target_os = "linux")]
mod jobs;
#[cfg(target_os = "linux")]
mod processes;

const RUNS: usize = 3;

#[expect(clippy::print_stdout, reason = "the table is what a bench is for")]
fn main() {
    let [initial, steady] = measured().unwrap_or_else(|missing| [(); 2].map(|()| format!("not measured: {missing}")));
    println!("| what | figure to reach | measured (median of {RUNS}) |\n|---|---|---|");
    println!(
        "| memory of 10 jobs that share 5 managed servers, right after their calls | ≥ 5x less than with their own \
         | {initial} |"
    );
    println!("| the same once it is steady for 30 s | ≥ 5x less than with their own | {steady} |");
}

/// Returns the figures, or what is missing to measure them.
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
