//! The settings of the real binary, from flags, variables and files.

use std::{
    ffi::OsStr,
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

/// The binary, without the `CORTEX_` variables of the environment of the tests.
fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cortex-resource-manager"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CORTEX_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Runs the binary until it ends.
fn run(arguments: &[&str], variables: &[(&str, &str)], directory: &Path) -> Output {
    binary()
        .args(arguments)
        .envs(variables.iter().copied())
        .current_dir(directory)
        .output()
        .expect("a binary that can be started")
}

/// Creates a directory with a file `cortex.toml` of this content.
fn directory_with(content: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::write(directory.path().join("cortex.toml"), content).expect("a file that can be written");
    directory
}

/// Checks that a process exited with code 2, no standard output, and this one line on standard error.
fn refused(output: &Output, line: &str) {
    assert_eq!(String::from_utf8_lossy(&output.stderr), format!("error: {line}\n"));
    assert_eq!(output.status.code(), Some(2), "{line}");
    assert!(output.stdout.is_empty(), "{line}");
}

/// Returns the standard output of a process that exited with code 0 and wrote nothing to standard error.
fn printed(output: &Output) -> String {
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// The end of an error about the counts of workers.
const WORKERS: &str = "give 0 to 57436, the number of worker ports (8000-65535 without 9000-9099)";

#[test]
fn wrong_arguments_are_refused_in_one_line() {
    let directory = directory_with("");
    let cases: &[(&[&str], &str)] = &[
        (&["--total-workers", "60000"], &format!("total_workers is 60000 (from --total-workers): {WORKERS}")),
        (&["--total-workers", "-1"], &format!("total_workers is -1 (from --total-workers): {WORKERS}")),
        (&["--total-workers="], &format!("total_workers is empty (from --total-workers): {WORKERS}")),
        (&["--total-workers"], &format!("--total-workers has no value: {WORKERS}")),
        (&["--total-workers", "--total-cpu", "3"], &format!("--total-workers has no value: {WORKERS}")),
        (&["--total-workers", "3", "--total-workers", "3"], "--total-workers is given more than once: give it once"),
        (&["--total-wokers", "3"], "unknown flag --total-wokers: did you mean --total-workers?"),
        (&["--total-wokers=3"], "unknown flag --total-wokers: did you mean --total-workers?"),
        (&["--total_workers", "3"], "unknown flag --total_workers: did you mean --total-workers?"),
        (&["status", "--total-workers", "3"], "unknown flag --total-workers: `status --help` lists the known ones"),
        (&["stop", "--staet", "a.db"], "unknown flag --staet: did you mean --state?"),
        (&["events", "--folow"], "unknown flag --folow: did you mean --follow?"),
        (&["--state", "a.db", "status"], "put `status` before its flags"),
        (&["--state", "a.db", "stpo"], "invalid arguments: unexpected positional argument after flags; see --help"),
        (&["--print-confg"], "unknown flag --print-confg: did you mean --print-config?"),
        (&["--frobnicate"], "unknown flag --frobnicate: --help lists the known ones"),
        (&["-x"], "unknown flag -x: --help lists the known ones"),
        (
            &["serve"],
            "unexpected argument serve: give flags, or one of the commands daemon, status, stop, events, verify, \
             simulate, demo; see --help",
        ),
        (
            &["--", "a b"],
            "unexpected argument \"a b\": give flags, or one of the commands daemon, status, stop, events, verify, \
             simulate, demo; see --help",
        ),
        (
            &[""],
            "unexpected argument empty: give flags, or one of the commands daemon, status, stop, events, verify, \
             simulate, demo; see --help",
        ),
        (&["--print-config=yes"], "--print-config takes no value: give it alone"),
        (&["--print-config", "--print-config"], "--print-config is given more than once: give it once"),
        (&["--config"], "--config has no value: give the path of a TOML file"),
        (&["--config="], "config is empty (from --config): give the path of a TOML file"),
        (
            &["--log-level", "wran"],
            "log_level is wran (from --log-level): did you mean warn? give off, error, warn, info, debug or trace",
        ),
        (
            &["--toolsets", "allocation,leses"],
            "toolsets is allocation,leses (from --toolsets): leses is unknown, did you mean leases? \
             give allocation, leases, agents, tasks, usage, planning or servers, separated by commas, or all",
        ),
        (&["--catalog="], "catalog is empty (from --catalog): give the path of a file"),
        (
            &["--endpoint-auth", "nome"],
            "endpoint_auth is nome (from --endpoint-auth): did you mean none? give token or none",
        ),
        (
            &["--min-workers", "3", "--max-workers", "2", "--total-workers", "3"],
            "total_workers is 3 (from --total-workers), above max_workers, which is 2 (from --max-workers): \
             lower total_workers or raise max_workers",
        ),
    ];
    for (arguments, line) in cases {
        refused(&run(arguments, &[], directory.path()), line);
    }
}

#[test]
fn wrong_variables_are_refused_in_one_line() {
    let directory = directory_with("");
    let cases = [
        ("CORTEX_TOTAL_WORKERS", "", format!("total_workers is empty (from CORTEX_TOTAL_WORKERS): {WORKERS}")),
        ("CORTEX_TOTAL_WORKERS", "x", format!("total_workers is x (from CORTEX_TOTAL_WORKERS): {WORKERS}")),
        ("CORTEX_CONFIG", "", "config is empty (from CORTEX_CONFIG): give the path of a TOML file".to_owned()),
    ];
    for (name, value, line) in cases {
        refused(&run(&["--print-config"], &[(name, value)], directory.path()), &line);
    }
}

#[test]
fn wrong_files_are_refused_in_one_line() {
    let cases = [
        ("total_wokers = 1", "unknown key total_wokers in cortex.toml: did you mean total_workers?"),
        (
            "# workers\ntotal_workers = \n",
            "cortex.toml is not valid TOML at line 2, column 17: string values must be quoted, expected literal string",
        ),
        ("total_workers = 60000", &format!("total_workers is 60000 (from cortex.toml): {WORKERS}")),
    ];
    for (content, line) in cases {
        let directory = directory_with(content);
        refused(&run(&["--config", "cortex.toml"], &[], directory.path()), line);
        refused(&run(&[], &[("CORTEX_CONFIG", "cortex.toml")], directory.path()), line);
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let directory = directory_with("");
    let output = run(&["--config", "absent.toml"], &[], directory.path());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.starts_with("error: cannot read the configuration file absent.toml: "), "{error}");
    assert_eq!(error.lines().count(), 1);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn printed_settings_say_where_they_came_from() {
    let directory = directory_with("plan_seconds = 60\ntoolsets = [\"leases\", \"allocation\"]\n");
    let output = run(
        &["--config", "cortex.toml", "--total-workers", "12", "--print-config"],
        &[("CORTEX_TOTAL_CPU", "7.25"), ("CORTEX_TOTAL_WORKERS", "13"), ("CORTEX_WORKER_ID", "w")],
        directory.path(),
    );
    let page = printed(&output);
    let lines: Vec<&str> = page.lines().filter(|line| !line.starts_with('#')).collect();
    let expected = [
        "total_cpu = 7.25 # CORTEX_TOTAL_CPU",
        "total_memory = 32768 # default",
        "total_workers = 12 # --total-workers",
        "worker_cpu = 1.0 # default",
        "worker_memory = 2048 # default",
        "default_ttl_seconds = 3600 # default",
        "max_ttl_seconds = 604800 # default",
        "sweep_seconds = 300 # default",
        "plan_seconds = 60 # cortex.toml",
        "max_live_allocations = 1000000 # default",
        "history_count = 10000 # default",
        "history_seconds = 86400 # default",
        "token_budget = 200000 # default",
        "token_window_seconds = 0 # default",
        "heartbeat_seconds = 10 # default",
        "priority_aging_seconds = 300 # default",
        "response_target_ms = 3000 # default",
        "task_lease_seconds = 300 # default",
        "max_tasks = 100000 # default",
        "max_task_bytes = 268435456 # default",
        "durability = \"full\" # default",
        "keep_events = 30 # default",
        "recovery_grace_seconds = 60 # default",
        "resize = \"no\" # default",
        "daemon = \"auto\" # default",
        "daemon_idle_seconds = 300 # default",
        "endpoint_auth = \"token\" # default",
        "worker_ready = \"tcp\" # default",
        "worker_grace_seconds = 5 # default",
        "max_calls_in_flight = 256 # default",
        "max_line_bytes = 1048576 # default",
        "toolsets = [\"allocation\", \"leases\"] # cortex.toml",
        "log_level = \"info\" # default",
        "log_format = \"text\" # default",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn printed_settings_are_a_file_that_gives_them_again() {
    let directory = directory_with("");
    let first = printed(&run(
        &["--print-config", "--total-cpu", "0.125", "--toolsets", "all", "--max-workers=99", "--log-level=OFF"],
        &[],
        directory.path(),
    ));
    let again = directory_with(&first);
    let second = printed(&run(&["--print-config", "--config", "cortex.toml"], &[], again.path()));
    let values = |page: &str| -> toml::Table { page.parse().expect("TOML") };
    assert_eq!(values(&first), values(&second));
    assert_eq!(values(&first)["max_workers"].as_integer(), Some(99));
}

#[test]
fn the_version_and_the_help_page_are_printed_whatever_the_settings_are() {
    let directory = directory_with("");
    let wrong = [("CORTEX_TOTAL_WORKERS", "wrong")];
    for flag in ["--version", "-V"] {
        let version = printed(&run(&[flag], &wrong, directory.path()));
        assert_eq!(version, concat!("cortex-resource-manager ", env!("CARGO_PKG_VERSION"), "\n"));
    }
    for flag in ["--help", "-h"] {
        let page = printed(&run(&[flag], &wrong, directory.path()));
        for part in [
            "leases",
            "--total-workers <COUNT>",
            "CORTEX_TOTAL_WORKERS",
            "Default 32768,",
            "Default total_workers, variable CORTEX_MIN_WORKERS",
            "Give off, error, warn, info, debug or trace.",
            "--print-config",
            "CORTEX_CONFIG",
        ] {
            assert!(page.contains(part), "{part} is missing in:\n{page}");
        }
        assert!(!page.contains('\u{1b}'), "no colours");
        let widest = page.lines().map(|line| line.chars().count()).max();
        assert!(widest.is_some_and(|columns| columns <= 110), "{widest:?}");
    }
}

#[test]
fn a_reader_that_closes_its_end_causes_no_panic() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = binary().arg("--print-config").stdout(writer).output().expect("a binary that can be started");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn an_error_that_is_not_read_keeps_its_code() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let status = binary().arg("--frobnicate").stderr(writer).status().expect("a binary that can be started");
    assert_eq!(status.code(), Some(2));
}

#[cfg(unix)]
#[test]
fn what_is_not_text_is_refused_without_a_panic() {
    use std::os::unix::ffi::OsStrExt as _;
    let raw = OsStr::from_bytes(b"1\xff");
    let with_argument = |arguments: &[&OsStr]| binary().args(arguments).output().expect("a binary that can be started");
    let flag = OsStr::new("--total-workers");
    refused(
        &with_argument(&[flag, raw]),
        &format!("total_workers is 1\u{fffd}, not UTF-8 (from --total-workers): {WORKERS}"),
    );
    refused(
        &with_argument(&[raw]),
        "unexpected argument 1\u{fffd}: give flags, or one of the commands daemon, status, stop, events, verify, \
         simulate, demo; see --help",
    );
    refused(
        &with_argument(&[OsStr::from_bytes(b"--\xff\xff\xff")]),
        "unknown flag --\u{fffd}\u{fffd}\u{fffd}: --help lists the known ones",
    );
    let output = binary().env("CORTEX_TOTAL_WORKERS", raw).output().expect("a binary that can be started");
    refused(&output, &format!("total_workers is 1\u{fffd}, not UTF-8 (from CORTEX_TOTAL_WORKERS): {WORKERS}"));
}
