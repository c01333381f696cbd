//! The memory of process trees, as Linux reports it in `/proc`.

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

/// The interval between two measurements.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// The number of consecutive measurements that must agree within 1 %. Node frees memory some 20 s after its last work.
const STEADY_SAMPLES: usize = 30;
/// The time limit for the memory to become steady.
const STEADY_WITHIN: Duration = Duration::from_secs(180);

/// Returns the memory, in MiB, of all descendants of this process, and of another process and its descendants: now, and
/// once it is steady. Asserts the number of processes, so that none is missed or counted in error.
pub(crate) async fn mib_now_and_steady(other: Option<u32>, expected: usize) -> [f64; 2] {
    let sample = || {
        let mut processes = BTreeSet::from_iter(other);
        for root in other.into_iter().chain([std::process::id()]) {
            add_below(root, &mut processes);
        }
        assert_eq!(processes.len(), expected, "processes: {processes:?}");
        processes.into_iter().map(proportional_mib).sum::<f64>()
    };
    let begin = Instant::now();
    let initial = sample();
    let (mut first, mut samples) = (initial, 1);
    while samples < STEADY_SAMPLES {
        assert!(begin.elapsed() < STEADY_WITHIN, "it is not steady after {STEADY_WITHIN:?}: {first} MiB");
        tokio::time::sleep(SAMPLE_INTERVAL).await;
        let now = sample();
        (first, samples) = if (now - first).abs() > first / 100.0 { (now, 1) } else { (first, samples + 1) };
    }
    [initial, sample()]
}

fn add_below(process: u32, found: &mut BTreeSet<u32>) {
    // Linux lists children per thread that started them.
    for thread in fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten() {
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            if found.insert(child) {
                add_below(child, found);
            }
        }
    }
}

/// Returns the proportional set size of a process.
fn proportional_mib(process: u32) -> f64 {
    let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).expect("a process that runs");
    let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).expect("Linux 4.14 or newer");
    pss.trim_end_matches("kB").trim().parse::<f64>().expect("a number") / 1_024.0
}
