//! Paths without a state where none can be created, and foreign files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rusqlite::Connection;

use crate::faults::skip;
use crate::support::durable::{Ending, Home, MODES, Mode, UNUSABLE, workers};

/// Checks that neither a session nor a command starts, and that the content of the path does not change.
fn check_refused(home: &Home, words: &[&str]) {
    let before = fs::read(home.state()).ok();
    let path = home.state().display().to_string();
    let words = [words, &[path.as_str()]].concat();
    for mode in MODES {
        home.check_unusable(mode, &[], &words);
    }
    for command in ["verify", "events"] {
        let ended = home.ask(command, &[]);
        assert_eq!(ended.code, Some(UNUSABLE), "{command}: {ended:#?}");
        assert_eq!(ended.output, "", "{command}: {ended:#?}");
    }
    assert_eq!(fs::read(home.state()).ok(), before, "{path} is left as it is");
    assert!(!home.beside("-wal").exists(), "nothing is left beside {path}");
    assert!(home.processes().is_empty(), "nothing is left running");
}

/// Returns a home with something else in the place of its state.
fn with_file(bytes: &[u8]) -> Home {
    let home = Home::new();
    fs::write(home.state(), bytes).expect("a file");
    home
}

/// Returns a home with a foreign database in the place of its state.
fn with_database(statements: &str) -> Home {
    let home = Home::new();
    let database = Connection::open(home.state()).expect("a database");
    database.execute_batch(statements).expect("statements that work");
    database.close().expect("a database that closes");
    home
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let home = Home::with_state("missing/state.db");
    check_refused(&home, &["missing"]);
    assert!(!home.path("missing").exists(), "no folder is made");
}

#[test]
fn a_path_that_cannot_be_written_is_named() {
    check_refused(&Home::with_state("/proc/x.db"), &[]);
}

#[test]
fn a_folder_that_may_not_be_written_is_named() {
    if rustix::process::geteuid().is_root() {
        return skip("root may write everywhere");
    }
    let home = Home::with_state("closed/state.db");
    fs::create_dir(home.path("closed")).expect("a folder");
    fs::set_permissions(home.path("closed"), fs::Permissions::from_mode(0o500)).expect("its owner");
    check_refused(&home, &[]);
    fs::set_permissions(home.path("closed"), fs::Permissions::from_mode(0o700)).expect("its owner");
}

#[test]
fn a_folder_is_no_state() {
    let home = Home::new();
    fs::create_dir(home.state()).expect("a folder");
    check_refused(&home, &[]);
}

#[test]
fn a_text_is_no_state() {
    check_refused(&with_file(b"Not a database, but somebody's notes.\n".repeat(200).as_slice()), &[]);
    check_refused(&with_file(b"short"), &[]);
}

#[test]
fn an_empty_file_is_no_state() {
    check_refused(&with_file(b""), &[]);
}

#[test]
fn a_database_of_another_program_is_no_state() {
    check_refused(&with_database("CREATE TABLE notes (text TEXT); INSERT INTO notes VALUES ('mine');"), &[]);
    check_refused(&with_database("PRAGMA application_id = 7; CREATE TABLE notes (text TEXT);"), &[]);
    let alike = "CREATE TABLE events (sequence INTEGER PRIMARY KEY, at INTEGER, job TEXT, event TEXT, chain INTEGER);";
    check_refused(&with_database(alike), &[]);
    // A database that was created and never used is foreign as well.
    check_refused(&with_database("PRAGMA user_version = 1;"), &[]);
}

#[test]
fn a_newer_schema_is_refused_naming_both() {
    let home = Home::new();
    let mut server = home.server(Mode::Never, &[]);
    let id = server.grant(&workers("kept", 2));
    home.end(server, Ending::InOrder);

    let version = |set: Option<i64>| -> i64 {
        let database = Connection::open(home.state()).expect("a database");
        if let Some(version) = set {
            database.pragma_update(None, "user_version", version).expect("a version");
        }
        let version = database.pragma_query_value(None, "user_version", |row| row.get(0)).expect("a version");
        database.close().expect("a database that closes");
        version
    };
    let known = version(None);
    assert!(known > 0, "a state has the version of its schema");
    assert_eq!(version(Some(99)), 99);
    for mode in MODES {
        let line = home.check_unusable(mode, &[], &["99"]);
        // Digits of the path and of the newer version are not an answer.
        let rest = line.replace(&home.state().display().to_string(), "").replace("99", "");
        let is_named = rest.split(|character: char| !character.is_ascii_digit()).any(|word| word == known.to_string());
        assert!(is_named, "version {known} is not named in {line}");
    }
    for command in ["verify", "events"] {
        assert_eq!(home.ask(command, &[]).code, Some(UNUSABLE), "{command}");
    }
    assert_eq!(version(None), 99, "it is left as it is");
    assert_eq!(version(Some(known)), known);
    let mut server = home.server(Mode::Never, &[]);
    assert_eq!(server.allocation(&id)["state"], "active");
}

#[test]
fn only_the_owner_can_read_a_state() {
    let check = |path: &Path| {
        let mode = fs::symlink_metadata(path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o077, 0, "others may reach {}: {mode:o}", path.display());
    };
    let home = Home::new();
    for _ in 0..2 {
        let mut server = home.server(Mode::Auto, &[]);
        server.grant(&workers("secret", 1));
        home.files().iter().for_each(|path| check(path));
        check(&home.path("run/cortex-resource-manager"));
        home.end(server, Ending::InOrder);
        home.files().iter().for_each(|path| check(path));
    }
}
