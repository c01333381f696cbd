//! Precedence of sources, contents of a file, rules between settings, and error texts.

use std::{ffi::OsString, fs};

use super::{
    super::{Configuration, Flags, SETTINGS, Settings, Source, flag_of},
    Sources,
};

#[test]
fn a_flag_wins_over_a_variable_over_the_file_over_the_default() {
    let sources = Sources::new().file("total_workers = 11\nsweep_seconds = 11\nplan_seconds = 11\n");
    let sources = sources
        .variable("CORTEX_TOTAL_WORKERS", "12")
        .variable("CORTEX_SWEEP_SECONDS", "12")
        .flag("total_workers", "13");
    let configuration = sources.load().expect("three good sources");
    let settings = &configuration.settings;
    assert_eq!((settings.total_workers, settings.sweep_seconds, settings.plan_seconds), (13, 12, 11));
    assert_eq!(settings.total_memory, Settings::default().total_memory);
    let source = |key| configuration.source(key).clone();
    assert_eq!(source("total_workers"), Source::Flag("total_workers"));
    assert_eq!(source("sweep_seconds"), Source::Variable("sweep_seconds"));
    assert_eq!(source("plan_seconds"), Source::File(sources.path()));
    assert_eq!(source("total_memory"), Source::Default);
}

#[test]
fn the_variable_names_a_file_unless_the_flag_does() {
    let other = Sources::new().file("total_workers = 21\n");
    let name = other.path().to_string_lossy().into_owned();
    let workers = |sources: Sources| {
        let configuration = sources.variable("CORTEX_CONFIG", &name).load().expect("a good file");
        configuration.settings.total_workers
    };
    assert_eq!(workers(Sources::new()), 21);
    assert_eq!(workers(Sources::new().file("total_workers = 22\n")), 22);
}

#[test]
fn a_wrong_value_is_refused_even_where_a_stronger_source_replaces_it() {
    let sources = Sources::new().file("total_workers = 60000\n").flag("total_workers", "1");
    assert!(sources.load().is_err());
}

#[test]
fn other_variables_are_none_of_our_business() {
    let sources = Sources::new().variable("CORTEX_WORKER_ID", "w").variable("CORTEX_PRINT_CONFIG", "x");
    assert!(sources.load().is_ok());
}

#[test]
fn a_catalog_is_for_unix_alone() {
    let mut configuration = Configuration::default();
    let setting = SETTINGS.iter().find(|setting| setting.key == "catalog").expect("a setting");
    configuration.set(setting, "servers.json", Source::Flag(setting.key)).expect("a path");
    assert_eq!(configuration.check_platform(true), Ok(()));
    let refused = configuration.check_platform(false).expect_err("no Unix");
    assert_eq!(
        refused.to_string(),
        "catalog is servers.json (from --catalog): managed MCP servers need a Unix system: leave it out"
    );
    assert_eq!(Configuration::default().check_platform(false), Ok(()));
}

#[test]
fn bounds_of_the_planner_follow_the_total_unless_given() {
    let bounds = |sources: Sources| {
        let settings = sources.load().expect("bounds that agree").settings;
        (settings.min_workers, settings.total_workers, settings.max_workers)
    };
    assert_eq!(bounds(Sources::new().flag("total_workers", "40")), (40, 40, 40));
    assert_eq!(bounds(Sources::new().flag("min_workers", "3")), (3, 10, 10));
    assert_eq!(bounds(Sources::new().flag("max_workers", "50")), (10, 10, 50));
    assert_eq!(bounds(Sources::new().flag("total_workers", "0")), (0, 0, 0));
}

#[test]
fn a_lease_on_a_task_is_no_longer_than_a_lease_may_be_unless_given() {
    let seconds = |sources: Sources| sources.load().expect("settings that agree").settings.task_lease_seconds;
    let short = || Sources::new().flag("default_ttl_seconds", "50").flag("max_ttl_seconds", "100");
    assert_eq!(seconds(Sources::new()), 300);
    assert_eq!(seconds(short()), 100);
    assert_eq!(seconds(short().flag("task_lease_seconds", "7")), 7);
}

#[test]
fn settings_that_contradict_each_other_are_both_named() {
    let cases = [
        (
            Sources::new().flag("min_workers", "20"),
            "min_workers is 20 (from --min-workers), above total_workers, which is 10 (the default): \
             lower min_workers or raise total_workers",
        ),
        (
            Sources::new().variable("CORTEX_MAX_WORKERS", "5").file("total_workers = 6\n"),
            "total_workers is 6 (from cortex.toml), above max_workers, which is 5 (from CORTEX_MAX_WORKERS): \
             lower total_workers or raise max_workers",
        ),
        (
            Sources::new().flag("max_ttl_seconds", "60"),
            "default_ttl_seconds is 3600 (the default), above max_ttl_seconds, which is 60 (from --max-ttl-seconds): \
             lower default_ttl_seconds or raise max_ttl_seconds",
        ),
        (
            Sources::new().flag("max_ttl_seconds", "3600").variable("CORTEX_TASK_LEASE_SECONDS", "3601"),
            "task_lease_seconds is 3601 (from CORTEX_TASK_LEASE_SECONDS), above max_ttl_seconds, which is 3600 \
             (from --max-ttl-seconds): lower task_lease_seconds or raise max_ttl_seconds",
        ),
    ];
    for (sources, expected) in cases {
        assert_eq!(sources.load().expect_err("a contradiction"), expected);
    }
}

#[test]
fn a_wrong_file_is_told_in_one_line() {
    let large = vec![b'#'; 1_048_577];
    let cases: &[(&[u8], &str)] = &[
        (b"total_wokers = 1", "unknown key total_wokers in cortex.toml: did you mean total_workers?"),
        (b"TOTAL-WORKERS = 1", "unknown key TOTAL-WORKERS in cortex.toml: did you mean total_workers?"),
        (b"config = 'x'", "unknown key config in cortex.toml: --print-config lists the known keys"),
        (b"[server]\ntotal_cpu = 1", "unknown key server in cortex.toml: --print-config lists the known keys"),
        (b"\"a\\nb\" = 1", "unknown key \"a\\nb\" in cortex.toml: --print-config lists the known keys"),
        (b"total_cpu = 1\ntotal_cpu = 2", "cortex.toml is not valid TOML at line 2, column 1: duplicate key"),
        (b"a = 1\nb = \"\xff\"", "cortex.toml is not valid TOML at line 2, column 6: this is not UTF-8"),
        ("total_cpu = \"ä\" ?".as_bytes(), "cortex.toml is not valid TOML at line 1, column 17: "),
        (b"toolsets = []", "toolsets is an empty array (from cortex.toml): give allocation, leases, agents, "),
        (b"toolsets = [1]", "toolsets is an array with values other than strings (from cortex.toml): give "),
        (
            b"toolsets = ['allocation', 'leses']",
            "toolsets is allocation,leses (from cortex.toml): leses is unknown, did you mean leases? give allocation, ",
        ),
        (b"total_cpu = [1]", "total_cpu is an array (from cortex.toml): give 0 to 1000000 cores, "),
        (b"total_cpu.x = 1", "total_cpu is a table (from cortex.toml): give 0 to "),
        (b"total_cpu = 2026-11-21", "total_cpu is a date or time (from cortex.toml): give 0 to "),
        (b"total_cpu = true", "total_cpu is true (from cortex.toml): give 0 to "),
        (
            b"total_workers = 99999999999999999999999",
            "total_workers is 99999999999999999999999 (from cortex.toml): give 0 to 57436, ",
        ),
        (b"total_cpu = 1e3", "total_cpu is 1e3 (from cortex.toml): give 0 to "),
        (&large, "cannot read the configuration file cortex.toml: it is larger than 1048576 bytes"),
    ];
    for (content, expected) in cases {
        let error = Sources::new().file(content).load().expect_err("a wrong file");
        assert!(error.starts_with(expected), "{error:?} does not start with {expected:?}");
        assert!(!error.contains('\n'), "{error:?}");
    }
}

#[test]
fn a_file_may_use_what_toml_has() {
    let content = "\u{feff}# a comment\r\ntotal_workers = 0x10\ntotal_memory = +1_000\n\
                   toolsets = [\n  'leases', # renewals\n  \"allocation\",\n]\n";
    let settings = Sources::new().file(content).load().expect("a good file").settings;
    assert_eq!((settings.total_workers, settings.total_memory.0, settings.toolsets.len()), (16, 1_000, 2));
}

#[test]
fn long_and_odd_values_are_shortened_in_errors() {
    let error = |value: &str| Sources::new().flag("total_workers", value).load().expect_err("no number");
    let long = "9".repeat(10_000);
    assert!(error(&long).starts_with(&format!("total_workers is {}… (from", "9".repeat(60))));
    assert!(error("1 \"\n\u{1b}[31m").starts_with(r#"total_workers is "1 \"\n\u{1b}[31m" (from"#));
    assert!(error("").starts_with("total_workers is empty (from --total-workers): give"));
}

#[cfg(unix)]
#[test]
fn a_path_with_a_line_break_stays_in_its_comment() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("a\ntotal_cpu = 1 #\u{7f}");
    fs::write(&path, "total_workers = 3\n").expect("a file that can be written");
    let flags = Flags::from([("config", path.into())]);
    let page = Configuration::load(&flags, |_| None).expect("a good file").to_toml();
    let settings = Sources::new().file(&page).load().expect("a page that reads back").settings;
    assert_eq!((settings.total_workers, settings.total_cpu), (3, Settings::default().total_cpu));
    let line = page.lines().find(|line| line.starts_with("total_workers")).unwrap_or_default();
    assert!(line.ends_with(r"a\ntotal_cpu = 1 #\u{7f}"), "{line}");
}

#[cfg(unix)]
#[test]
fn a_value_that_is_not_text_is_refused() {
    use std::os::unix::ffi::OsStringExt as _;
    for setting in SETTINGS {
        let raw = OsString::from_vec(vec![b'1', 0xff]);
        let error = Configuration::load(&Flags::from([(setting.key, raw)]), |_| None).expect_err("no text");
        let start = format!("{} is 1\u{fffd}, not UTF-8 (from {}): give ", setting.key, flag_of(setting.key));
        assert!(error.to_string().starts_with(&start), "{error}");
    }
}

#[test]
fn the_settings_of_workers_may_stand_in_a_table_of_their_own() {
    let apart = "worker_command = [\"node\", \"a b.js\"]\nworker_env = { A = \"x\" }\n\
                 worker_cpu = 2.0\nworker_ready = \"/up\"\n";
    let together = "[worker]\ncommand = [\"node\", \"a b.js\"]\ncpu = 2.0\nready = \"/up\"\n[worker.env]\nA = \"x\"\n";
    let load = |page: &str| Sources::new().file(page).load();
    let settings = load(apart).expect("a good file").settings;
    assert_eq!(settings, load(together).expect("the same").settings);
    assert_eq!(settings.worker_command, ["node", "a b.js"]);
    let error = load("[worker]\ncomand = \"x\"\n").expect_err("an unknown key");
    assert!(error.contains("worker.comand"), "{error}");
    let error = load("worker_cpu = 1.0\n[worker]\ncpu = 2.0\n").expect_err("it is named twice");
    assert!(error.contains("worker_cpu is set twice"), "{error}");
    let error = load("worker_env = { A = 1 }\n").expect_err("no texts");
    assert!(error.contains("a table with values other than strings"), "{error}");
    let error = load("worker = 1\n").expect_err("no table");
    assert!(error.contains("unknown"), "{error}");
}
