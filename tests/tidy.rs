//! Who may know whom. The lease machine and the planning stay pure only if nothing of the house leaks into them.

use std::fs;
use std::path::{Path, PathBuf};

/// Which modules of the crate the files of each may use, themselves aside.
const MAY_USE: [(&str, &[&str]); 21] = [
    ("core", &[]),
    ("planning", &["core"]),
    ("config", &["core", "nearest"]),
    ("cli", &["audit", "config", "core", "planning"]),
    ("simulation", &["core", "planning"]),
    ("audit", &["core", "journal"]),
    ("telemetry", &["config"]),
    ("engine", &["core", "journal"]),
    ("journal", &["core", "file_id", "lock"]),
    ("lock", &["core", "file_id"]),
    ("file_id", &[]),
    ("program", &[]),
    ("loops", &["core", "engine", "journal", "planning"]),
    ("managed", &["core", "whole_file"]),
    ("runtime", &["core", "engine", "file_id", "lines", "managed", "nearest", "program", "whole_file"]),
    ("lines", &[]),
    ("nearest", &[]),
    ("whole_file", &[]),
    ("mcp", &["config", "core", "engine", "lines", "managed", "planning"]),
    (
        "serving",
        &[
            "config",
            "core",
            "engine",
            "journal",
            "lock",
            "loops",
            "managed",
            "mcp",
            "planning",
            "program",
            "runtime",
            "whole_file",
        ],
    ),
    (
        "daemon",
        &[
            "cli",
            "config",
            "core",
            "engine",
            "file_id",
            "journal",
            "lines",
            "lock",
            "loops",
            "managed",
            "mcp",
            "program",
            "runtime",
            "serving",
            "telemetry",
            "whole_file",
        ],
    ),
];

fn files_of(module: &str) -> Vec<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![source.join(format!("{module}.rs"))];
    let mut folders = vec![source.join(module)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.expect("a folder that can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                files.push(path);
            }
        }
    }
    files
}

/// The modules named after `crate::` in code; comments do not count, since a link to what uses a thing is no use of it.
fn used_modules(text: &str) -> Vec<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let joined = code.collect::<Vec<_>>().join("\n");
    let mut found = Vec::new();
    for part in joined.split("crate::").skip(1) {
        found.push(part.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect());
    }
    found
}

#[test]
fn modules_use_only_what_they_may() {
    let mut looked_at = 0;
    for (module, may_use) in MAY_USE {
        for file in files_of(module) {
            let text = fs::read_to_string(&file).expect("a source file");
            looked_at += 1;
            for used in used_modules(&text) {
                let fine = used == module || may_use.contains(&used.as_str());
                assert!(fine, "{} uses crate::{used}, which {module} may not", file.display());
            }
        }
    }
    assert!(looked_at > 40, "only {looked_at} files were found");
}

#[test]
fn the_core_reads_no_clock_and_does_no_io() {
    let banned =
        ["std::time::Instant", "SystemTime", "std::fs", "std::net", "std::thread", "tokio", "Mutex", "uuid", "rand::"];
    for file in files_of("core").into_iter().chain(files_of("planning")) {
        let text = fs::read_to_string(&file).expect("a source file");
        for word in banned {
            assert!(!text.contains(word), "{} has {word}", file.display());
        }
    }
}

#[test]
fn every_module_is_under_the_rule() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in fs::read_dir(source).expect("a folder that can be read") {
        let path = entry.expect("a folder that can be read").path();
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a plain name").to_owned();
        let is_top = ["lib", "main", "app"].contains(&name.as_str());
        assert!(is_top || MAY_USE.iter().any(|(module, _)| *module == name), "{name} has no rule");
    }
}
