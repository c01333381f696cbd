//! Which settings are a session's own, and which are the daemon's.
//!
//! A session brings its own along. The daemon's are those of the process that started it; a session that was given others
//! is told so, and refused where going on would mean books of another size than it was promised.

use std::{collections::BTreeSet, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use cortex_config::{Configuration, Settings, Source, Toolset};
use cortex_mcp::transport::WireLimits;

/// The settings of one session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SessionSettings {
    /// The names of the toolsets.
    pub(super) toolsets: Vec<String>,
    pub(super) default_ttl_seconds: u64,
    pub(super) max_ttl_seconds: u64,
    /// Absent in the hello of a version that knew of no tasks, and asks for none.
    #[serde(default = "task_lease_seconds_default")]
    pub(super) task_lease_seconds: u64,
    pub(super) max_calls_in_flight: usize,
    pub(super) max_line_bytes: usize,
}

fn task_lease_seconds_default() -> u64 {
    Settings::default().task_lease_seconds
}

/// The most calls in flight that a session may have, as in the table of the settings.
const CALLS_IN_FLIGHT_MAX: usize = 65_536;

/// The longest line that a session may take, in bytes, as in the table of the settings.
const LINE_BYTES_MAX: usize = 16_777_216;

/// How a setting of the daemon is shown, to be compared.
type Show = fn(&Settings) -> String;

/// The size of the books. A session that was given another is refused.
const TOTALS: [(&str, Show); 3] = [
    ("total_cpu", |settings| settings.total_cpu.as_cores().to_string()),
    ("total_memory", |settings| settings.total_memory.0.to_string()),
    ("total_workers", |settings| settings.total_workers.to_string()),
];

/// What is really run. A session that was given something else is refused: its grants would promise what nobody runs.
const REAL: [(&str, Show); 2] = [
    ("catalog", |settings| settings.catalog.as_deref().map_or_else(|| "none".to_owned(), shown_path)),
    ("worker_command", |settings| match settings.worker_command.as_slice() {
        [] => "none".to_owned(),
        words => words.join(" "),
    }),
];

/// The token budget at the start of the daemon, which the books remember. A session that was given another is warned.
const TOKENS: [(&str, Show); 2] = [
    ("token_budget", |settings| settings.token_budget.to_string()),
    ("token_window_seconds", |settings| settings.token_window_seconds.to_string()),
];

/// The other settings of the daemon. A session that was given others is warned.
const OTHERS: [(&str, Show); 22] = [
    ("worker_cpu", |settings| settings.worker_cpu.as_cores().to_string()),
    ("worker_memory", |settings| settings.worker_memory.0.to_string()),
    ("min_workers", |settings| settings.min_workers.to_string()),
    ("max_workers", |settings| settings.max_workers.to_string()),
    ("sweep_seconds", |settings| settings.sweep_seconds.to_string()),
    ("plan_seconds", |settings| settings.plan_seconds.to_string()),
    ("max_live_allocations", |settings| settings.max_live_allocations.to_string()),
    ("history_count", |settings| settings.history_count.to_string()),
    ("history_seconds", |settings| settings.history_seconds.to_string()),
    ("heartbeat_seconds", |settings| settings.heartbeat_seconds.to_string()),
    ("priority_aging_seconds", |settings| settings.priority_aging_seconds.to_string()),
    ("response_target_ms", |settings| settings.response_target_ms.to_string()),
    ("max_tasks", |settings| settings.max_tasks.to_string()),
    ("max_task_bytes", |settings| settings.max_task_bytes.to_string()),
    ("durability", |settings| settings.durability.name().to_owned()),
    ("keep_events", |settings| settings.keep_events_days.to_string()),
    ("recovery_grace_seconds", |settings| settings.recovery_grace_seconds.to_string()),
    ("daemon_idle_seconds", |settings| settings.daemon_idle_seconds.to_string()),
    ("endpoint_auth", |settings| settings.endpoint_auth.name().to_owned()),
    // Their values may be secrets.
    ("worker_env", |settings| settings.worker_env.keys().cloned().collect::<Vec<_>>().join(", ")),
    ("worker_ready", |settings| settings.worker_ready.to_string()),
    ("worker_grace_seconds", |settings| settings.worker_grace_seconds.to_string()),
];

/// A path as it is wherever the process was started that it was given to.
fn shown_path(path: &Path) -> String {
    let whole = path.canonicalize().or_else(|_| std::path::absolute(path));
    whole.as_deref().unwrap_or(path).to_string_lossy().into_owned()
}

impl SessionSettings {
    pub(super) fn of(settings: &Settings) -> Self {
        Self {
            toolsets: settings.toolsets.iter().map(|toolset| toolset.name().to_owned()).collect(),
            default_ttl_seconds: settings.default_ttl_seconds,
            max_ttl_seconds: settings.max_ttl_seconds,
            task_lease_seconds: settings.task_lease_seconds,
            max_calls_in_flight: settings.max_calls_in_flight,
            max_line_bytes: settings.max_line_bytes,
        }
    }

    /// The settings of the daemon with those of the session in their place, and what its connection may take up.
    ///
    /// # Errors
    /// A text that says which toolset the daemon does not know, or what is out of bounds.
    pub(super) fn over(&self, settings: &Settings) -> Result<(Settings, WireLimits), String> {
        let toolset = |name: &String| {
            let known = Toolset::ALL.iter().find(|(known, _)| known == name);
            known.map(|(_, toolset)| *toolset).ok_or_else(|| format!("the daemon knows no toolset {name:?}"))
        };
        let toolsets = self.toolsets.iter().map(toolset).collect::<Result<BTreeSet<_>, _>>()?;
        let seconds_min = self.default_ttl_seconds.min(self.task_lease_seconds);
        if seconds_min == 0 || self.max_calls_in_flight == 0 || self.max_line_bytes == 0 {
            return Err("the session's limits are 0: give 1 or more".to_owned());
        }
        let bounds = [
            ("max_calls_in_flight", self.max_calls_in_flight, CALLS_IN_FLIGHT_MAX),
            ("max_line_bytes", self.max_line_bytes, LINE_BYTES_MAX),
        ];
        if let Some((key, value, most)) = bounds.into_iter().find(|(_, value, most)| value > most) {
            return Err(format!("the session's {key} is {value}: give {most} or less"));
        }
        let settings = Settings {
            toolsets,
            default_ttl_seconds: self.default_ttl_seconds,
            max_ttl_seconds: self.max_ttl_seconds,
            task_lease_seconds: self.task_lease_seconds,
            ..settings.clone()
        };
        let limits = WireLimits {
            line_bytes_max: self.max_line_bytes,
            calls_in_flight_max: self.max_calls_in_flight,
            ..WireLimits::default()
        };
        Ok((settings, limits))
    }
}

/// The daemon's settings that were given to this process, by key.
pub(super) fn given(configuration: &Configuration) -> Map<String, Value> {
    TOTALS
        .iter()
        .chain(&REAL)
        .chain(&TOKENS)
        .chain(&OTHERS)
        .filter(|(key, _)| *configuration.source(key) != Source::Default)
        .map(|(key, show)| ((*key).to_owned(), show(&configuration.settings).into()))
        .collect()
}

/// What differs between the settings in force and those given to a session.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Differences {
    /// Why the session is refused, if it is.
    pub(super) refused: Option<String>,
    /// What the session is told.
    pub(super) warnings: Vec<String>,
}

/// Compares what was given to a session with the settings in force on `subject`. `stop` is the command that ends the
/// daemon.
pub(super) fn compare(given: &Map<String, Value>, in_force: &Settings, subject: &str, stop: &str) -> Differences {
    let differing = |table: &'static [(&'static str, Show)]| {
        table.iter().filter_map(|(key, show)| {
            let (asked, has) = (given.get(*key)?.as_str()?, show(in_force));
            (asked != has).then(|| format!("{key} is {asked}, and {has} in the daemon on {subject}"))
        })
    };
    let refused = differing(&TOTALS).next().map(|difference| {
        let resize = if in_force.state.is_some() { " with --resize yes" } else { "" };
        format!("{difference}: leave {} out, or end it with `{stop}` and start again{resize}", key_of(&difference))
    });
    let refused = refused.or_else(|| {
        let difference = differing(&REAL).next()?;
        let key = key_of(&difference);
        Some(format!(
            "{difference}: leave {key} out, or end the sessions that have it otherwise, then the daemon with `{stop}`, and start again"
        ))
    });
    let of_tokens = differing(&TOKENS)
        .map(|difference| format!("{difference} at its start, which stands: to change it, call set_token_budget"));
    let of_others = differing(&OTHERS)
        .map(|difference| format!("{difference}, which stands: to change it, end it with `{stop}` and start again"));
    let warnings = of_tokens.chain(of_others).collect();
    Differences { refused, warnings }
}

fn key_of(difference: &str) -> &str {
    difference.split(' ').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cortex_config::SETTINGS;

    /// Neither the daemon's nor sent along: they say where the books are and how this process itself runs.
    const OF_THE_PROCESS: [&str; 5] = ["state", "resize", "daemon", "log_level", "log_format"];

    #[test]
    fn every_setting_is_the_daemons_or_the_sessions_or_the_processs_own() {
        let session = serde_json::to_value(SessionSettings::of(&Settings::default())).expect("JSON");
        for setting in SETTINGS {
            let places = [
                TOTALS.iter().chain(&REAL).chain(&TOKENS).chain(&OTHERS).any(|(key, _)| *key == setting.key),
                session.get(setting.key).is_some(),
                OF_THE_PROCESS.contains(&setting.key),
            ];
            assert_eq!(places.iter().filter(|is| **is).count(), 1, "{}", setting.key);
        }
    }

    #[test]
    fn other_totals_are_refused_and_the_rest_is_told() {
        let in_force = Settings::default();
        let check = |given: &[(&str, &str)], refused: Option<&str>, warnings: &[&str]| {
            let given = given.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect();
            let differences = compare(&given, &in_force, "the shared memory", "x stop");
            match (&differences.refused, refused) {
                (Some(text), Some(expected)) => assert!(text.contains(expected), "{text}"),
                (text, expected) => assert_eq!(text.is_some(), expected.is_some(), "{text:?}"),
            }
            assert_eq!(differences.warnings.len(), warnings.len(), "{differences:?}");
            for (text, expected) in differences.warnings.iter().zip(warnings) {
                assert!(text.contains(expected), "{text}");
            }
        };
        check(&[], None, &[]);
        check(&[("total_workers", "10"), ("total_cpu", "16")], None, &[]);
        check(
            &[("total_workers", "12")],
            Some("total_workers is 12, and 10 in the daemon on the shared memory: leave"),
            &[],
        );
        check(&[("sweep_seconds", "1"), ("from_the_future", "1")], None, &["sweep_seconds is 1, and 300"]);
        check(&[("total_memory", "1"), ("durability", "normal")], Some("total_memory is 1"), &["durability is normal"]);
        check(
            &[("heartbeat_seconds", "1"), ("token_budget", "5"), ("token_window_seconds", "0")],
            None,
            &[
                "token_budget is 5, and 200000 in the daemon on the shared memory at its start",
                "heartbeat_seconds is 1",
            ],
        );
    }

    #[test]
    fn another_catalog_is_refused_and_another_way_of_access_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("servers.json");
        std::fs::write(&path, "{}").expect("a file");
        let same = folder.path().join("..").join(folder.path().file_name().expect("a name")).join("servers.json");
        let given_as = |path: &Path| {
            let catalog = shown_path(path);
            Map::from_iter([("catalog".to_owned(), catalog.into()), ("endpoint_auth".to_owned(), "none".into())])
        };
        let compared =
            |given: Map<String, Value>, in_force: &Settings| compare(&given, in_force, "the state", "x stop");
        let in_force = Settings { catalog: Some(path.clone()), ..Settings::default() };
        let Differences { refused, warnings } = compared(given_as(&same), &in_force);
        assert_eq!((refused, warnings.len()), (None, 1), "{warnings:?}");
        assert!(warnings[0].starts_with("endpoint_auth is none, and token in the daemon"), "{warnings:?}");
        let refused = compared(given_as(&path), &Settings::default()).refused.expect("another catalog");
        assert!(
            refused
                .contains("servers.json, and none in the daemon on the state: leave catalog out, or end the sessions"),
            "{refused}"
        );
        let workers = Map::from_iter([("worker_command".to_owned(), "node x.js".into())]);
        let refused = compared(workers, &Settings::default()).refused.expect("other workers");
        assert!(refused.contains("worker_command is node x.js, and none in the daemon"), "{refused}");
        assert_eq!(compared(Map::new(), &in_force), Differences::default(), "whoever names none takes what there is");
    }

    #[test]
    fn a_session_brings_its_own_settings() {
        let daemon = Settings { total_workers: 3, ..Settings::default() };
        let own = Settings {
            toolsets: BTreeSet::from([Toolset::Leases]),
            default_ttl_seconds: 7,
            task_lease_seconds: 8,
            max_line_bytes: 2_000,
            ..Settings::default()
        };
        let (settings, limits) = SessionSettings::of(&own).over(&daemon).expect("settings that fit");
        assert_eq!((settings.total_workers, settings.default_ttl_seconds, &settings.toolsets), (3, 7, &own.toolsets));
        assert_eq!((settings.task_lease_seconds, limits.line_bytes_max), (8, 2_000));
        for wrong in [
            SessionSettings { toolsets: vec!["other".to_owned()], ..SessionSettings::of(&own) },
            SessionSettings { default_ttl_seconds: 0, ..SessionSettings::of(&own) },
            SessionSettings { task_lease_seconds: 0, ..SessionSettings::of(&own) },
            SessionSettings { max_calls_in_flight: 0, ..SessionSettings::of(&own) },
            SessionSettings { max_calls_in_flight: CALLS_IN_FLIGHT_MAX + 1, ..SessionSettings::of(&own) },
            SessionSettings { max_line_bytes: LINE_BYTES_MAX + 1, ..SessionSettings::of(&own) },
        ] {
            assert!(wrong.over(&daemon).is_err(), "{wrong:?}");
        }
        for (key, most) in [("max_calls_in_flight", CALLS_IN_FLIGHT_MAX), ("max_line_bytes", LINE_BYTES_MAX)] {
            let setting = SETTINGS.iter().find(|setting| setting.key == key).expect("a setting");
            assert!(setting.allowed().ends_with(&format!(" to {most}")), "{key}: {}", setting.allowed());
        }
    }
}
