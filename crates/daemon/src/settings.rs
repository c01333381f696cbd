//! The settings of a session, and those of the daemon.
//!
//! A session sends its own settings. The daemon's settings are those of the process that started it. A session that was
//! given other values for them gets a warning, or is refused if the difference concerns totals or managed processes.

use std::{collections::BTreeSet, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::refusal::{Difference, Refusal};
use cortex_config::{Configuration, Settings, Source, Toolset};
use cortex_mcp::transport::WireLimits;

/// The settings of one session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SessionSettings {
    pub(super) toolsets: Vec<String>,
    pub(super) default_ttl_seconds: u64,
    pub(super) max_ttl_seconds: u64,
    /// Absent in the handshake of a version without tasks.
    #[serde(default = "task_lease_seconds_default")]
    pub(super) task_lease_seconds: u64,
    pub(super) max_calls_in_flight: usize,
    pub(super) max_line_bytes: usize,
}

fn task_lease_seconds_default() -> u64 {
    Settings::default().task_lease_seconds
}

/// The maximum of a session's calls in flight; equal to the bound in the table of settings.
const CALLS_IN_FLIGHT_MAX: usize = 65_536;

/// The maximum line length of a session, in bytes; equal to the bound in the table of settings.
const LINE_BYTES_MAX: usize = 16_777_216;

/// Formats a setting of the daemon for the comparison.
type FormatSetting = fn(&Settings) -> String;

/// The totals of the state. A session that was given others is refused.
const TOTALS: [(&str, FormatSetting); 3] = [
    ("total_cpu", |settings| settings.total_cpu.as_cores().to_string()),
    ("total_memory", |settings| settings.total_memory.0.to_string()),
    ("total_workers", |settings| settings.total_workers.to_string()),
];

/// The managed servers and workers. A session that was given others is refused, since the daemon would not run them.
const PROVISIONING: [(&str, FormatSetting); 2] = [
    ("catalog", |settings| settings.catalog.as_deref().map_or_else(|| "none".to_owned(), absolute_path)),
    ("worker_command", |settings| match settings.worker_command.as_slice() {
        [] => "none".to_owned(),
        words => words.join(" "),
    }),
];

/// The token budget at the start of the daemon, which is part of the state. A session that was given another is warned.
const TOKENS: [(&str, FormatSetting); 2] = [
    ("token_budget", |settings| settings.token_budget.to_string()),
    ("token_window_seconds", |settings| settings.token_window_seconds.to_string()),
];

/// The other settings of the daemon. A session that was given others is warned.
const OTHERS: [(&str, FormatSetting); 22] = [
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
    ("keep_events", |settings| settings.keep_events.to_string()),
    ("recovery_grace_seconds", |settings| settings.recovery_grace_seconds.to_string()),
    ("daemon_idle_seconds", |settings| settings.daemon_idle_seconds.to_string()),
    ("endpoint_auth", |settings| settings.endpoint_auth.name().to_owned()),
    // Without the values, which may be secrets.
    ("worker_env", |settings| settings.worker_env.keys().cloned().collect::<Vec<_>>().join(", ")),
    ("worker_ready", |settings| settings.worker_ready.to_string()),
    ("worker_grace_seconds", |settings| settings.worker_grace_seconds.to_string()),
];

/// Formats a path independently of the working directory of the process that it was given to.
fn absolute_path(path: &Path) -> String {
    let absolute = path.canonicalize().or_else(|_| std::path::absolute(path));
    absolute.as_deref().unwrap_or(path).to_string_lossy().into_owned()
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

    /// Returns the daemon's settings with the session's applied to them, and the limits of the session's connection.
    ///
    /// # Errors
    /// The daemon does not support a toolset, or a value is out of bounds.
    pub(super) fn apply_to(&self, settings: &Settings) -> Result<(Settings, WireLimits), Refusal> {
        let toolset = |name: &String| {
            let known = Toolset::ALL.iter().find(|(known, _)| known == name);
            known.map(|(_, toolset)| *toolset).ok_or_else(|| Refusal::UnknownToolset { name: name.clone() })
        };
        let toolsets = self.toolsets.iter().map(toolset).collect::<Result<BTreeSet<_>, _>>()?;
        let seconds_min = self.default_ttl_seconds.min(self.task_lease_seconds);
        if seconds_min == 0 || self.max_calls_in_flight == 0 || self.max_line_bytes == 0 {
            return Err(Refusal::ZeroLimit);
        }
        let bounds = [
            ("max_calls_in_flight", self.max_calls_in_flight, CALLS_IN_FLIGHT_MAX),
            ("max_line_bytes", self.max_line_bytes, LINE_BYTES_MAX),
        ];
        if let Some((key, value, max)) = bounds.into_iter().find(|(_, value, max)| value > max) {
            return Err(Refusal::OverLimit { key, value, max });
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

/// Returns the daemon's settings that were given to this process, by key.
pub(super) fn given_daemon_settings(configuration: &Configuration) -> Map<String, Value> {
    TOTALS
        .iter()
        .chain(&PROVISIONING)
        .chain(&TOKENS)
        .chain(&OTHERS)
        .filter(|(key, _)| *configuration.source(key) != Source::Default)
        .map(|(key, format)| ((*key).to_owned(), format(&configuration.settings).into()))
        .collect()
}

/// Compares the settings given to a session with those of the daemon for the state named `state`, and returns the
/// warnings for the session's log. `stop` is the command that stops the daemon.
///
/// # Errors
/// The totals or the managed servers and workers differ.
pub(super) fn compare(
    given: &Map<String, Value>,
    daemon_settings: &Settings,
    state: &str,
    stop: &str,
) -> Result<Vec<String>, Refusal> {
    let differing = |table: &'static [(&'static str, FormatSetting)]| {
        table.iter().filter_map(|(key, format)| {
            let (given, actual) = (given.get(*key)?.as_str()?.to_owned(), format(daemon_settings));
            (given != actual).then(|| Difference { key, given, actual, state: state.to_owned() })
        })
    };
    if let Some(difference) = differing(&TOTALS).next() {
        let is_durable = daemon_settings.state.is_some();
        return Err(Refusal::OtherTotal { difference, stop: stop.to_owned(), is_durable });
    }
    if let Some(difference) = differing(&PROVISIONING).next() {
        return Err(Refusal::OtherProvisioning { difference, stop: stop.to_owned() });
    }
    let of_tokens = differing(&TOKENS).map(|difference| {
        format!("{difference} at its start; the daemon's value applies: to change it, call set_token_budget")
    });
    let of_others = differing(&OTHERS).map(|difference| {
        format!("{difference}; the daemon's value applies: to change it, stop the daemon with `{stop}` and start again")
    });
    Ok(of_tokens.chain(of_others).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cortex_config::SETTINGS;

    /// Settings of neither the daemon nor the session: the path of the state, and options of the process itself.
    const OF_THE_PROCESS: [&str; 5] = ["state", "resize", "daemon", "log_level", "log_format"];

    #[test]
    fn every_setting_is_the_daemons_or_the_sessions_or_the_processs_own() {
        let session = serde_json::to_value(SessionSettings::of(&Settings::default())).expect("JSON");
        for setting in SETTINGS {
            let places = [
                TOTALS.iter().chain(&PROVISIONING).chain(&TOKENS).chain(&OTHERS).any(|(key, _)| *key == setting.key),
                session.get(setting.key).is_some(),
                OF_THE_PROCESS.contains(&setting.key),
            ];
            assert_eq!(places.iter().filter(|is| **is).count(), 1, "{}", setting.key);
        }
    }

    #[test]
    fn other_totals_are_refused_and_other_settings_warned_about() {
        let daemon_settings = Settings::default();
        let check = |given: &[(&str, &str)], refusal: Option<&str>, warnings: &[&str]| {
            let given: Map<_, _> = given.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect();
            match (compare(&given, &daemon_settings, "the in-memory state", "x stop"), refusal) {
                (Err(refusal), Some(expected)) => assert!(refusal.to_string().contains(expected), "{refusal}"),
                (Ok(texts), None) => {
                    assert_eq!(texts.len(), warnings.len(), "{texts:?}");
                    for (text, expected) in texts.iter().zip(warnings) {
                        assert!(text.contains(expected), "{text}");
                    }
                }
                (compared, _) => panic!("{given:?}: {compared:?}"),
            }
        };
        check(&[], None, &[]);
        check(&[("total_workers", "10"), ("total_cpu", "16")], None, &[]);
        check(
            &[("total_workers", "12")],
            Some("total_workers is 12, but 10 in the daemon for the in-memory state: omit"),
            &[],
        );
        check(&[("sweep_seconds", "1"), ("from_the_future", "1")], None, &["sweep_seconds is 1, but 300"]);
        check(&[("total_memory", "1"), ("durability", "normal")], Some("total_memory is 1"), &[]);
        check(&[("durability", "normal")], None, &["durability is normal"]);
        check(
            &[("heartbeat_seconds", "1"), ("token_budget", "5"), ("token_window_seconds", "0")],
            None,
            &[
                "token_budget is 5, but 200000 in the daemon for the in-memory state at its start",
                "heartbeat_seconds is 1",
            ],
        );
    }

    #[test]
    fn another_catalog_is_refused_and_another_endpoint_auth_warned_about() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("servers.json");
        std::fs::write(&path, "{}").expect("a file");
        let same = folder.path().join("..").join(folder.path().file_name().expect("a name")).join("servers.json");
        let given_as = |path: &Path| {
            let catalog = absolute_path(path);
            Map::from_iter([("catalog".to_owned(), catalog.into()), ("endpoint_auth".to_owned(), "none".into())])
        };
        let compared =
            |given: Map<String, Value>, settings: &Settings| compare(&given, settings, "the state", "x stop");
        let daemon_settings = Settings { catalog: Some(path.clone()), ..Settings::default() };
        let warnings = compared(given_as(&same), &daemon_settings).expect("the same catalog");
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].starts_with("endpoint_auth is none, but token in the daemon"), "{warnings:?}");
        let refusal = compared(given_as(&path), &Settings::default()).expect_err("another catalog").to_string();
        assert!(
            refusal.contains(
                "servers.json, but none in the daemon for the state: omit catalog, or end the other sessions"
            ),
            "{refusal}"
        );
        let workers = Map::from_iter([("worker_command".to_owned(), "node x.js".into())]);
        let refusal = compared(workers, &Settings::default()).expect_err("other workers").to_string();
        assert!(refusal.contains("worker_command is node x.js, but none in the daemon"), "{refusal}");
        let warnings = compared(Map::new(), &daemon_settings).expect("a session without these settings is accepted");
        assert_eq!(warnings, Vec::<String>::new());
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
        let (settings, limits) = SessionSettings::of(&own).apply_to(&daemon).expect("settings that fit");
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
            assert!(wrong.apply_to(&daemon).is_err(), "{wrong:?}");
        }
        for (key, most) in [("max_calls_in_flight", CALLS_IN_FLIGHT_MAX), ("max_line_bytes", LINE_BYTES_MAX)] {
            let setting = SETTINGS.iter().find(|setting| setting.key == key).expect("a setting");
            assert!(setting.allowed().ends_with(&format!(" to {most}")), "{key}: {}", setting.allowed());
        }
    }
}
