//! The command `simulate` of the real binary: its table, JSON and page, and its errors for invalid traces and flags.

use cortex_simulation::AGENTS_MAX;
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use tempfile::TempDir;

/// A folder with a trace.
struct Place {
    folder: TempDir,
}

impl Place {
    fn with(trace: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("trace.csv"), trace).expect("room for a trace");
        Self { folder }
    }

    /// Returns a trace with a wave: 20 to 180 requests in each five minutes of a day.
    fn with_wave() -> Self {
        let mut trace = String::from("seconds,requests\n");
        for bin in 0..288 {
            let requests = 100.0 + 80.0 * (f64::from(bin) / 46.0).sin();
            writeln!(trace, "{},{requests:.0}", bin * 300).expect("a text");
        }
        Self::with(&trace)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cortex-resource-manager"));
        command.env_clear().current_dir(self.folder.path()).arg("simulate").args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("a program that starts")
    }

    /// Returns the output of a run that succeeds.
    fn printed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && error.is_empty(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Returns the exit code and the single line on standard error of a run that fails.
    fn refused(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        assert!(output.stdout.is_empty(), "{arguments:?} printed something");
        let error = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(error.matches('\n').count(), 1, "{error}");
        (output.status.code().expect("an exit code"), error.trim_end().to_owned())
    }
}

/// Returns the cells of a table row, which are separated by two blanks.
fn cells(line: &str) -> Vec<&str> {
    line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
}

#[test]
fn the_table_has_a_row_for_each_policy_and_the_fixed_fleet() {
    let place = Place::with_wave();
    let table = place.printed(&["--trace", "trace.csv"]);
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines[0], "trace.csv: 28,802 tasks of 30 s on average, a plan every 30 s");
    assert_eq!(cells(lines[2])[..4], ["fleet", "tasks", "done", "left"]);
    let fleets: Vec<&str> = lines[3..].iter().map(|line| cells(line)[0]).collect();
    assert_eq!(fleets[..3], ["aggressive", "balanced", "conservative"]);
    assert!(fleets.len() == 4 && fleets[3].starts_with("fixed, "), "{fleets:?}");
    for line in &lines[3..] {
        assert_eq!(cells(line)[1..5], ["28,802", "28,802", "0", "0"], "{line}");
    }
    assert_eq!(place.printed(&["--trace", "trace.csv"]), table, "the same again");
}

#[test]
fn json_has_the_same_figures_and_takes_one_policy_and_a_number_of_agents() {
    let place = Place::with_wave();
    let output = place.printed(&[
        "--trace",
        "trace.csv",
        "--policy",
        "Aggressive",
        "--agents",
        "7",
        "--duration-mean",
        "2.5",
        "--plan-seconds",
        "60",
        "--json",
    ]);
    let report: Value = serde_json::from_str(&output).expect("JSON");
    assert_eq!((&report["duration_mean_seconds"], &report["plan_seconds"]), (&Value::from(2.5), &Value::from(60.0)));
    let rows = report["rows"].as_array().expect("rows");
    let names: Vec<&Value> = rows.iter().map(|row| &row["fleet"]).collect();
    assert_eq!(names, ["aggressive", "fixed, 7"]);
    assert_eq!(
        (&rows[1]["agents_mean"], &rows[1]["agents_most"], &rows[1]["scalings"]),
        (&7.0.into(), &7.into(), &0.into())
    );
    for row in rows {
        assert_eq!((&row["tasks"], &row["done"], &row["left"]), (&28_802.into(), &28_802.into(), &0.into()));
    }
}

#[test]
fn the_page_refers_to_no_other_file() {
    let place = Place::with_wave();
    fs::write(place.path("page.html"), "something older").expect("room");
    let table = place.printed(&["--trace", "trace.csv", "--html", "page.html"]);
    assert!(table.contains("balanced"), "the table is printed all the same");
    let page = fs::read_to_string(place.path("page.html")).expect("a page");
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    for (text, times) in [("<html", 1), ("</html>", 1), ("<svg", 4), ("</svg>", 4), ("<table>", 1), ("<tr>", 5)] {
        assert_eq!(page.matches(text).count(), times, "{text}");
    }
    for (open, close) in
        [("<p>", "</p>"), ("<h2>", "</h2>"), ("<td>", "</td>"), ("<div", "</div>"), ("<span", "</span>")]
    {
        assert_eq!(page.matches(open).count(), page.matches(close).count(), "{open}");
    }
    for outside in ["http", "<script", "<link", "src=", "href=", "url(", "something older"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("prefers-color-scheme: dark"));
}

#[test]
fn the_name_of_a_trace_cannot_write_into_the_page() {
    let place = Place::with("seconds\n0\n");
    fs::rename(place.path("trace.csv"), place.path("<b>&.csv")).expect("a name that is allowed");
    place.printed(&["--trace", "<b>&.csv", "--html", "page.html"]);
    let page = fs::read_to_string(place.path("page.html")).expect("a page");
    assert!(page.contains("&lt;b&gt;&amp;.csv") && !page.contains("<b>"));
}

#[test]
fn an_exhausted_budget_is_reported() {
    let mut trace = String::from("seconds,context_tokens,generated_tokens\n");
    (0..100).for_each(|second| writeln!(trace, "{second},90,10").expect("a text"));
    let place = Place::with(&trace);
    let output = place.printed(&["--trace", "trace.csv", "--policy", "balanced", "--token-budget", "5000"]);
    assert!(output.contains("balanced: the token budget is exhausted, and 50 tasks are left"), "{output}");
    let all = place.printed(&["--trace", "trace.csv", "--policy", "balanced"]);
    assert!(!all.contains("tokens"), "{all}");
    let windows = ["--token-budget", "5000", "--token-window-seconds", "600", "--json"];
    let windowed = place.printed(&[&["--trace", "trace.csv"], windows.as_slice()].concat());
    let report: Value = serde_json::from_str(&windowed).expect("JSON");
    for row in report["rows"].as_array().expect("rows") {
        assert_eq!((&row["done"], &row["left"]), (&100.into(), &0.into()));
        assert!(row["deferred_most"].as_u64() > Some(0), "{row}");
    }
}

#[test]
fn bad_traces_end_it_with_code_3_and_the_line() {
    let cases = [
        ("", "the file is empty: give a header and rows"),
        ("seconds\n", "the header is not followed by rows: give at least one"),
        ("time\n1\n", "line 1: the first column is \"time\": give seconds, and a column requests if they are counted"),
        ("seconds\r\n1\r\nlate\r\n", "line 3: seconds is \"late\": give a number"),
        ("seconds\n2\n1\n", "line 3: seconds is 1, after 2 in the previous row: sort the rows by time"),
        ("seconds,requests\n0,1\n1,\n", "line 3: requests is \"\": give a whole number"),
        ("seconds,tokens\n0,-1\n", "line 2: tokens is -1: give a whole number from 0 to 9007199254740992"),
        (
            "seconds\n0\n40000000\n",
            "line 3: seconds is 40000000 after the previous row, over 31536000 (a year): correct the times or split \
             the trace",
        ),
    ];
    for (trace, problem) in cases {
        let (code, error) = Place::with(trace).refused(&["--trace", "trace.csv"]);
        assert_eq!((code, error), (3, format!("error: the trace trace.csv: {problem}")));
    }
    let place = Place::with("seconds\n0\n");
    let (code, error) = place.refused(&["--trace", "missing.csv"]);
    assert!(code == 3 && error.starts_with("error: the trace missing.csv: it cannot be read: "), "{error}");
    let (code, error) = place.refused(&["--trace", "."]);
    assert!(code == 3 && error.contains("it is not a regular file"), "{error}");
}

#[test]
fn an_unwritable_page_is_reported_before_the_simulation() {
    // The trace is also invalid, which would be reported as soon as it is read.
    let place = Place::with("seconds\n0\nlate\n");
    let folder = (3, "error: the page none/page.html is in a folder that does not exist: create it first".to_owned());
    assert_eq!(place.refused(&["--trace", "trace.csv", "--html", "none/page.html"]), folder);
    let (code, error) = place.refused(&["--trace", "trace.csv", "--html", "."]);
    assert!(code == 3 && error.contains("is not a file"), "{error}");
    fs::hard_link(place.path("trace.csv"), place.path("other-name.csv")).expect("a second name");
    for same in ["./trace.csv", "other-name.csv"] {
        let (code, error) = place.refused(&["--trace", "trace.csv", "--html", same]);
        assert!(code == 3 && error.contains("is the trace: give another path"), "{error}");
    }
}

#[test]
fn wrong_flags_end_it_with_code_2() {
    assert_eq!(AGENTS_MAX, 100_000, "what --agents says is what a world takes");
    let place = Place::with("seconds\n0\n");
    let cases: [(&[&str], &str); 11] = [
        (&[], "simulate needs --trace: give the path of a CSV file"),
        (&["--trace"], "--trace has no value: give the path of a CSV file"),
        (&["--policy", "fast"], "policy is fast (from --policy): give aggressive, balanced or conservative"),
        (&["--agents", "0"], "agents is 0 (from --agents): give 1 to 100000"),
        (&["--agents", "100001"], "agents is 100001 (from --agents): give 1 to 100000"),
        (&["--duration-mean", "0"], "duration-mean is 0 (from --duration-mean): give 0.001 to 86400 seconds"),
        (&["--duration-mean", "-1"], "duration-mean is -1 (from --duration-mean): give 0.001 to 86400 seconds"),
        (&["--html", ""], "html is empty (from --html): give the path of a file to write"),
        (&["--plan-seconds", "0"], "plan_seconds is 0 (from --plan-seconds): give 1 to 86400"),
        (&["--polcy", "balanced"], "unknown flag --polcy: did you mean --policy?"),
        (&["--state", "x.db"], "unknown flag --state: "),
    ];
    for (arguments, expected) in cases {
        let whole = if arguments.contains(&"--trace") || arguments.is_empty() {
            arguments.to_vec()
        } else {
            [&["--trace", "trace.csv"], arguments].concat()
        };
        let (code, error) = place.refused(&whole);
        assert!(code == 2 && error.starts_with(&format!("error: {expected}")), "{whole:?}: {code}, {error}");
    }
}

#[test]
fn the_help_page_is_no_wider_than_a_terminal() {
    let help = Place::with("").printed(&["--help"]);
    assert!(help.lines().all(|line| line.chars().count() <= 110), "{help}");
    for flag in ["--trace", "--policy", "--agents", "--duration-mean", "--html", "--json", "--token-budget"] {
        assert!(help.contains(flag), "{flag}");
    }
}

/// Returns its memory, if the system reports it.
#[cfg(target_os = "linux")]
mod memory {
    use super::Place;
    use crate::support::wait_for;
    use std::fs;
    use std::io::{BufWriter, Write};
    use std::path::Path;
    use std::process::Stdio;

    /// Returns the peak memory of a process, in bytes.
    fn peak_bytes(process: u32) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
    }

    #[test]
    fn a_million_rows_are_never_in_memory() {
        const BYTES_MAX: u64 = 48 << 20;
        let place = Place::with("");
        million_rows(&place.path("trace.csv"));
        let mut command = place.command(&["--trace", "trace.csv", "--policy", "balanced", "--html", "page.html"]);
        let mut child = command.stdout(Stdio::null()).spawn().expect("a program that starts");
        let mut peak = 0;
        let status = wait_for("the end of the simulation", || {
            peak = peak.max(peak_bytes(child.id()).unwrap_or(0));
            child.try_wait().expect("a child")
        });
        assert!(status.success());
        assert!((1..BYTES_MAX).contains(&peak), "{peak} bytes");
    }

    /// A row every second, of which one in fifty has requests.
    fn million_rows(path: &Path) {
        let mut file = BufWriter::new(fs::File::create(path).expect("a file"));
        writeln!(file, "seconds,requests,note").expect("room");
        for second in 0..1_000_000 {
            writeln!(file, "{second},{},a note that is not looked at", u8::from(second % 50 == 0)).expect("room");
        }
        file.flush().expect("room");
    }
}
