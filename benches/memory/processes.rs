//! What the processes below some others have in memory, as Linux tells it in `/proc`.

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, Instant},
};

/// The time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// So many looks in a row have to see the same, within a hundredth. Node gives memory back some 20 s after it has worked.
const STEADY_LOOKS: usize = 30;
/// The longest that it may take until the memory is steady.
const STEADY_WITHIN: Duration = Duration::from_secs(180);

/// The memory, in MiB, of all processes below this one, and of another with those below it: now, and once it is steady.
/// There must be as many of them as told, so that none is missed and nothing else is counted.
pub(crate) async fn mib_now_and_steady(other: Option<u32>, expected: usize) -> [f64; 2] {
    let look = || {
        let mut processes = BTreeSet::from_iter(other);
        for root in other.into_iter().chain([std::process::id()]) {
            add_below(root, &mut processes);
        }
        assert_eq!(processes.len(), expected, "processes: {processes:?}");
        processes.into_iter().map(proportional_mib).sum::<f64>()
    };
    let begin = Instant::now();
    let at_once = look();
    let (mut first, mut looks) = (at_once, 1);
    while looks < STEADY_LOOKS {
        assert!(begin.elapsed() < STEADY_WITHIN, "it is not steady after {STEADY_WITHIN:?}: {first} MiB");
        tokio::time::sleep(LOOK_INTERVAL).await;
        let now = look();
        (first, looks) = if (now - first).abs() > first / 100.0 { (now, 1) } else { (first, looks + 1) };
    }
    [at_once, look()]
}

fn add_below(process: u32, found: &mut BTreeSet<u32>) {
    // Children are those of the thread that started them.
    for thread in fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten() {
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            if found.insert(child) {
                add_below(child, found);
            }
        }
    }
}

/// The proportional set size of a process.
fn proportional_mib(process: u32) -> f64 {
    let told = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).expect("a process that goes on");
    let pss = told.lines().find_map(|line| line.strip_prefix("Pss:")).expect("Linux 4.14 or newer");
    pss.trim_end_matches("kB").trim().parse::<f64>().expect("a number") / 1_024.0
}
