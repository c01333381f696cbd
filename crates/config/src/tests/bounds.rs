//! Every setting at and beyond its bounds, from each source.

use toml::Value;

use super::{
    super::{SETTINGS, Setting, Settings, Source, flag_of, shorten, variable_of},
    Sources,
};

/// Values of one setting: accepted ones, each with the form in which it is shown again, and refused ones.
struct Case {
    key: &'static str,
    accepted: &'static [(&'static str, &'static str)],
    refused: &'static [&'static str],
}

/// Texts that are not numbers.
const NO_NUMBERS: &[&str] = &[
    "",
    " ",
    "-1",
    "+1",
    "1 ",
    " 1",
    "ten",
    "1_0",
    "0x10",
    "1e1",
    "1,5",
    "１",
    "\u{0}",
    "inf",
    "NaN",
    "99999999999999999999999999",
    "1\n",
];

/// Texts that are not whole numbers.
const NO_WHOLE_NUMBERS: &[&str] = &["1.0", "1.5", "1.", ".5"];

const CASES: &[Case] = &[
    Case {
        key: "total_cpu",
        accepted: &[
            ("0", "0.0"),
            ("0.001", "0.001"),
            ("16", "16.0"),
            ("16.50", "16.5"),
            ("0.1", "0.1"),
            ("2.5000", "2.5"),
            ("007", "7.0"),
            ("999999.999", "999999.999"),
            ("1000000", "1000000.0"),
        ],
        refused: &["0.0001", "1.0005", "1000000.001", "1000001", "1.", ".5", "1.5.5", "1.-5", "-0"],
    },
    Case {
        key: "total_memory",
        accepted: &[("0", "0"), ("1099511627776", "1099511627776")],
        refused: &["1099511627777", "18446744073709551615", "18446744073709551616"],
    },
    Case {
        key: "total_workers",
        accepted: &[("0", "0"), ("57436", "57436")],
        refused: &["57437", "60000", "4294967296", "4294967297"],
    },
    Case {
        key: "worker_cpu",
        accepted: &[("0.001", "0.001"), ("1000000", "1000000.0")],
        refused: &["0", "0.000", "0.0009", "1000000.001"],
    },
    Case {
        key: "worker_memory",
        accepted: &[("1", "1"), ("1099511627776", "1099511627776")],
        refused: &["0", "1099511627777"],
    },
    Case { key: "min_workers", accepted: &[("0", "0"), ("10", "10")], refused: &["57437"] },
    Case { key: "max_workers", accepted: &[("10", "10"), ("57436", "57436")], refused: &["57437"] },
    Case { key: "default_ttl_seconds", accepted: &[("1", "1"), ("604800", "604800")], refused: &["0", "315360001"] },
    Case {
        key: "max_ttl_seconds",
        accepted: &[("3600", "3600"), ("315360000", "315360000")],
        refused: &["0", "315360001"],
    },
    Case { key: "sweep_seconds", accepted: &[("1", "1"), ("86400", "86400")], refused: &["0", "86401"] },
    Case { key: "plan_seconds", accepted: &[("1", "1"), ("86400", "86400")], refused: &["0", "86401"] },
    Case {
        key: "max_live_allocations",
        accepted: &[("1", "1"), ("10000000", "10000000")],
        refused: &["0", "10000001"],
    },
    Case { key: "history_count", accepted: &[("0", "0"), ("1000000", "1000000")], refused: &["1000001"] },
    Case { key: "history_seconds", accepted: &[("1", "1"), ("31536000", "31536000")], refused: &["0", "31536001"] },
    Case {
        key: "token_budget",
        accepted: &[("0", "0"), ("1000000000000000", "1000000000000000")],
        refused: &["1000000000000001"],
    },
    Case { key: "token_window_seconds", accepted: &[("0", "0"), ("31536000", "31536000")], refused: &["31536001"] },
    Case { key: "heartbeat_seconds", accepted: &[("1", "1"), ("3600", "3600")], refused: &["0", "3601"] },
    Case { key: "priority_aging_seconds", accepted: &[("0", "0"), ("604800", "604800")], refused: &["604801"] },
    Case { key: "response_target_ms", accepted: &[("1", "1"), ("86400000", "86400000")], refused: &["0", "86400001"] },
    Case { key: "task_lease_seconds", accepted: &[("1", "1"), ("604800", "604800")], refused: &["0", "604801"] },
    Case { key: "max_tasks", accepted: &[("1", "1"), ("10000000", "10000000")], refused: &["0", "10000001"] },
    Case {
        key: "max_task_bytes",
        accepted: &[("65536", "65536"), ("1099511627776", "1099511627776")],
        refused: &["0", "65535", "1099511627777"],
    },
    Case { key: "state", accepted: &[("a b.db", "\"a b.db\""), ("/x/ü", "\"/x/ü\"")], refused: &[""] },
    Case {
        key: "durability",
        accepted: &[("full", "\"full\""), ("Normal", "\"normal\"")],
        refused: &["", "off", "extra"],
    },
    Case { key: "keep_events", accepted: &[("0", "0"), ("36500", "36500")], refused: &["36501"] },
    Case { key: "recovery_grace_seconds", accepted: &[("0", "0"), ("86400", "86400")], refused: &["86401"] },
    Case { key: "resize", accepted: &[("yes", "\"yes\""), ("No", "\"no\"")], refused: &["", "true", "1"] },
    Case {
        key: "daemon",
        accepted: &[("auto", "\"auto\""), ("never", "\"never\""), ("ALWAYS", "\"always\"")],
        refused: &["", "yes", "sometimes"],
    },
    Case { key: "daemon_idle_seconds", accepted: &[("1", "1"), ("31536000", "31536000")], refused: &["0", "31536001"] },
    #[cfg(unix)]
    Case { key: "catalog", accepted: &[("a b.json", "\"a b.json\""), ("/x/ü", "\"/x/ü\"")], refused: &[""] },
    #[cfg(not(unix))]
    Case { key: "catalog", accepted: &[], refused: &[""] },
    Case {
        key: "endpoint_auth",
        accepted: &[("token", "\"token\""), ("None", "\"none\"")],
        refused: &["", "no", "bearer"],
    },
    Case {
        key: "worker_command",
        accepted: &[
            ("agent", r#"["agent"]"#),
            (" node  worker.js ", r#"["node", "worker.js"]"#),
            (r#"["my agent", "a,b", ""]"#, r#"["my agent", "a,b", ""]"#),
        ],
        refused: &["", " ", "[]", r#"[""]"#, r#"["a", 1]"#, "[a", "[\"a\\u0000\"]"],
    },
    Case {
        key: "worker_env",
        accepted: &[(r#"{"A": "b", "C": ""}"#, "{ A = \"b\", C = \"\" }")],
        refused: &["", "A=b", "[]", r#"{"A": 1}"#, r#"{"": "b"}"#, r#"{"A=": "b"}"#],
    },
    Case {
        key: "worker_ready",
        accepted: &[("tcp", "\"tcp\""), ("TCP", "\"tcp\""), ("none", "\"none\""), ("/health?x=1", "\"/health?x=1\"")],
        refused: &["", "http", "health", "/a b", "/a\nb", "/é"],
    },
    Case { key: "worker_grace_seconds", accepted: &[("0", "0"), ("600", "600")], refused: &["601"] },
    Case { key: "max_calls_in_flight", accepted: &[("1", "1"), ("65536", "65536")], refused: &["0", "65537"] },
    Case {
        key: "max_line_bytes",
        accepted: &[("1024", "1024"), ("16777216", "16777216")],
        refused: &["1023", "16777217"],
    },
    Case {
        key: "toolsets",
        accepted: &[
            ("allocation", r#"["allocation"]"#),
            ("leases", r#"["leases"]"#),
            ("leases,allocation,leases", r#"["allocation", "leases"]"#),
            (" leases , allocation ", r#"["allocation", "leases"]"#),
            ("usage,agents", r#"["agents", "usage"]"#),
            ("all", r#"["allocation", "leases", "agents", "tasks", "usage", "planning", "servers"]"#),
            ("leases,all", r#"["allocation", "leases", "agents", "tasks", "usage", "planning", "servers"]"#),
        ],
        refused: &["", ",", "leases,", "none", "alocation", "leases allocation", "Leases"],
    },
    Case {
        key: "log_level",
        accepted: &[
            ("off", "\"off\""),
            ("error", "\"error\""),
            ("warn", "\"warn\""),
            ("INFO", "\"info\""),
            ("Debug", "\"debug\""),
            ("trace", "\"trace\""),
        ],
        refused: &["", "warning", "5", "true", " info"],
    },
    Case {
        key: "log_format",
        accepted: &[("text", "\"text\""), ("JSON", "\"json\"")],
        refused: &["", "yaml", "json "],
    },
];

/// Returns the value of a setting as `--print-config` shows it.
fn shown_of(setting: &Setting, settings: &Settings) -> String {
    setting.show(settings).map_or_else(|| "nothing".to_owned(), |value| value.to_string())
}

fn setting(key: &str) -> &'static Setting {
    SETTINGS.iter().find(|setting| setting.key == key).expect("a known key")
}

/// Returns the same value from each of the three sources, each with the name of the source in errors.
fn from_each_source(setting: &'static Setting, text: &str) -> Vec<(String, Sources)> {
    let quoted = Value::from(text).to_string();
    let mut sources = vec![
        (flag_of(setting.key), Sources::new().flag(setting.key, text)),
        (variable_of(setting.key), Sources::new().variable(&variable_of(setting.key), text)),
        ("cortex.toml".to_owned(), Sources::new().file(format!("{} = {quoted}\n", setting.key))),
    ];
    // Numbers are usually written without quotes. TOML has no number like 007, so that not every text can be one.
    let bare = format!("{} = {text}\n", setting.key);
    let number = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if number && bare.parse::<toml::Table>().is_ok() {
        sources.push(("cortex.toml".to_owned(), Sources::new().file(bare)));
    }
    sources
}

#[test]
fn every_value_within_bounds_is_accepted_from_each_source() {
    for case in CASES {
        for (text, shown) in case.accepted {
            let setting = setting(case.key);
            for (source, sources) in from_each_source(setting, text) {
                let configuration =
                    sources.load().unwrap_or_else(|error| panic!("{} = {text} from {source}: {error}", case.key));
                assert_eq!(shown_of(setting, &configuration.settings), *shown, "{}", case.key);
                assert!(configuration.source(case.key).to_string().ends_with(&source));
            }
        }
    }
}

#[test]
fn every_value_beyond_bounds_reads_the_same_from_each_source() {
    for case in CASES {
        let words = !setting(case.key).allowed().starts_with(|first: char| first.is_ascii_digit());
        let cores = case.key.ends_with("cpu");
        let general = if words { &[] } else { NO_NUMBERS };
        let whole = if words || cores { &[] } else { NO_WHOLE_NUMBERS };
        for text in case.refused.iter().chain(general).chain(whole) {
            refused_from_each_source(setting(case.key), text);
        }
    }
}

/// Checks that each source refuses a value, in one line that names the key, the source and the allowed values.
fn refused_from_each_source(setting: &'static Setting, text: &str) {
    for (source, sources) in from_each_source(setting, text) {
        let error = match sources.load() {
            Ok(_) => panic!("{} took {text:?} from {source}", setting.key),
            Err(error) => error,
        };
        let start = format!("{} is {} (from {source}): ", setting.key, shorten(text));
        assert!(error.starts_with(&start), "{error:?} does not start with {start:?}");
        assert!(error.ends_with(&format!("give {}", setting.allowed())), "{error:?}");
        assert!(!error.contains('\n'), "{error:?}");
    }
}

#[test]
fn every_setting_has_a_case() {
    let keys: Vec<&str> = SETTINGS.iter().map(|setting| setting.key).collect();
    let cases: Vec<&str> = CASES.iter().map(|case| case.key).collect();
    assert_eq!(keys, cases);
}

#[test]
fn flags_and_variables_follow_from_keys() {
    assert_eq!(Source::Flag("total_cpu").to_string(), "--total-cpu");
    assert_eq!(Source::Variable("total_cpu").to_string(), "CORTEX_TOTAL_CPU");
}

#[test]
fn defaults_are_within_their_own_bounds() {
    let configuration = Sources::new().load().expect("the defaults");
    assert_eq!(configuration.settings, Settings::default());
    for setting in SETTINGS {
        assert_eq!(*configuration.source(setting.key), Source::Default);
        let mut settings = Settings::default();
        let Some(shown) = setting.show(&settings) else { continue };
        let text = shown.to_string();
        let text = if setting.key == "toolsets" { "allocation" } else { text.trim_matches('"') };
        assert_eq!(setting.parse(&mut settings, text), Ok(()), "{}", setting.key);
        assert_eq!(settings, Settings::default());
    }
}

#[test]
fn what_is_printed_reads_back_to_the_same() {
    for case in CASES {
        for (text, _) in case.accepted {
            let first = Sources::new().flag(case.key, text).load().expect("a good value");
            let page = first.to_toml();
            let second = Sources::new().file(&page).load().expect("a page that reads back");
            assert_eq!(first.settings, second.settings, "{page}");
            for setting in SETTINGS {
                // A setting that follows another one, or has no value, is printed as a comment.
                let optional = setting.follows.is_some() || setting.show(&Settings::default()).is_none();
                let only_shown = optional && *first.source(setting.key) == Source::Default;
                assert_eq!(matches!(second.source(setting.key), Source::File(_)), !only_shown, "{}", setting.key);
            }
        }
    }
}
