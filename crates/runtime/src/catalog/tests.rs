use super::*;
use std::error::Error;

/// Reads a catalog from a file with this text.
fn read_file(text: &str) -> Result<(Catalog, Vec<Warning>), CatalogError> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("servers.json");
    std::fs::write(&path, text).expect("a file");
    Catalog::read(&path, &variable)
}

fn variable(name: &str) -> Option<String> {
    match name {
        "HOME" => Some("/home/ada".to_owned()),
        "SECRET" => Some("hunter2".to_owned()),
        _ => None,
    }
}

fn read(text: &str) -> (Catalog, Vec<Warning>) {
    read_file(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The only entry of a catalog with this entry in it.
fn entry(text: &str) -> CatalogEntry {
    let (catalog, warnings) = read(&format!(r#"{{"mcpServers": {{"a": {text}}}}}"#));
    assert_eq!(warnings, [], "{text}");
    CatalogEntry::clone(catalog.entries.values().next().expect("an entry"))
}

/// Checks the error of an invalid catalog, without its path.
#[track_caller]
fn check_whole_refused(text: &str, expected: &str) {
    let error = read_file(text).expect_err(text);
    let message = match &error {
        CatalogError::Invalid { field, reason, .. } => format!("{field} {reason}"),
        other => other.to_string(),
    };
    assert_eq!(message, expected, "{text}");
    assert!(!format!("{error:?}{error}").contains("hunter2"), "{error:?}");
}

#[track_caller]
fn check_refused(entry: &str, expected: &str) {
    check_whole_refused(&format!(r#"{{"mcpServers": {{"a": {entry}}}}}"#), expected);
}

#[test]
fn the_file_of_a_client_is_read() {
    let (catalog, warnings) = read(
        r#"{
            "globalShortcut": "", "mcpServers": {
                "files": {"command": "npx", "args": ["-y", "@modelcontextprotocol/server-filesystem", "${HOME}/work"],
                          "env": {"TOKEN": "${SECRET}", "LEVEL": 3, "QUIET": true, "NOT": null}, "cwd": "${HOME}"},
                "search": {"type": "http", "url": "https://example.com/mcp?key=${SECRET}",
                           "headers": {"Authorization": "Bearer ${SECRET}"}, "cortex": {}},
                "left out": {"disabled": true, "command": 1}
            }
        }"#,
    );
    assert_eq!(warnings, []);
    let entries: Vec<(&str, &CatalogEntry)> =
        catalog.entries.iter().map(|(name, entry)| (name.as_str(), &**entry)).collect();
    let [("files", files), ("search", search)] = entries[..] else { panic!("{entries:?}") };
    let text = |text: &str| Template::from(text.to_owned());
    let variables = [("LEVEL", "3"), ("QUIET", "true"), ("TOKEN", "hunter2")];
    let expected = CatalogEntry {
        program: Program::Command {
            command: "npx".to_owned(),
            arguments: ["-y", "@modelcontextprotocol/server-filesystem", "/home/ada/work"].map(text).to_vec(),
            environment: variables.map(|(name, value)| (name.to_owned(), text(value))).into(),
            folder: match &files.program {
                Program::Command { folder, .. } => folder.clone(),
                Program::Remote { .. } | Program::Removed => None,
            },
        },
        sharing: Sharing::Shared,
        idle: Duration::from_secs(600),
        start_timeout: Duration::from_secs(30),
        calls_in_flight_max: 64,
        memory: None,
        roots: Vec::new(),
    };
    assert_eq!(*files, expected);
    assert_eq!(folder_of(files, None), Path::new("/home/ada"));
    let program = Program::Remote {
        url: "https://example.com/mcp?key=hunter2".to_owned(),
        headers: [("Authorization".to_owned(), "Bearer hunter2".to_owned())].into(),
    };
    assert_eq!(*search, CatalogEntry { program, ..expected });
    assert!(search.is_remote() && !files.is_remote());

    let debug = format!("{catalog:#?}");
    assert!(debug.contains("TOKEN") && debug.contains("example.com"), "{debug}");
    for secret in ["hunter2", "filesystem", "Bearer"] {
        assert!(!debug.contains(secret), "{debug}");
    }
}

#[test]
fn the_cortex_block_is_read() {
    let read = entry(
        r#"{"command": "x", "cortex": {"sharing": "per_allocation", "idle_seconds": 0, "start_timeout_seconds": 600,
            "max_calls_in_flight": 10000, "memory_mb": 16, "roots": ["${HOME}/a b/é", "file:///srv"]}}"#,
    );
    assert_eq!(read.sharing, Sharing::PerAllocation);
    assert_eq!((read.idle, read.start_timeout), (Duration::ZERO, Duration::from_secs(600)));
    assert_eq!((read.calls_in_flight_max, read.memory), (10_000, Some(MemoryMb(16))));
    assert_eq!(read.roots, ["file:///home/ada/a%20b/%C3%A9", "file:///srv"]);
    let nothing = entry(r#"{"command": "x", "args": null, "cortex": {"memory_mb": null, "roots": null}}"#);
    assert_eq!(nothing, entry(r#"{"command": "x"}"#));
    assert_ne!(nothing, entry(r#"{"command": "x", "args": ["y"]}"#));
}

#[test]
fn variants_of_other_clients_are_read() {
    let (catalog, _) =
        read("\u{FEFF}{\"inputs\": [], \"servers\": {\"a\": {\"type\": \"stdio\", \"command\": \"x\"}}}");
    assert_eq!(catalog.entries.len(), 1);
    for kind in ["http", "streamable-http", "streamableHttp", "HTTP"] {
        assert!(entry(&format!(r#"{{"type": "{kind}", "url": "http://localhost:1/mcp"}}"#)).is_remote());
    }
    assert_eq!(read(r#"{"mcpServers": {}}"#), (Catalog::default(), Vec::new()));
}

#[test]
fn a_relative_folder_is_relative_to_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("servers.json");
    std::fs::write(&path, r#"{"mcpServers": {"a": {"command": "x", "cwd": "tools"}}}"#).expect("a file");
    let (catalog, _) = Catalog::read(&path, &|_| None).expect("a catalog");
    let entry = catalog.entries.values().next().expect("an entry");
    assert_eq!(folder_of(entry, None), folder.path().join("tools"));
}

/// Returns the working directory of a server.
fn folder_of(entry: &CatalogEntry, allocation: Option<AllocationId>) -> PathBuf {
    let Program::Command { folder: Some(folder), .. } = &entry.program else { panic!("{entry:?}") };
    folder.for_allocation(allocation)
}

#[test]
fn an_entry_of_each_allocation_may_name_it() {
    let own = r#"{"command": "x", "args": ["--for=${CORTEX_ALLOCATION_ID}"], 
        "env": {"FILE": "${HOME}/${CORTEX_ALLOCATION_ID}.json"},
        "cwd": "/srv/${env:CORTEX_ALLOCATION_ID}", "cortex": {"sharing": "per_allocation"}}"#;
    let read = entry(own);
    let allocation = Some(AllocationId::from_bits(1));
    let Program::Command { arguments, environment, .. } = &read.program else { panic!("{read:?}") };
    assert_eq!(arguments[0].for_allocation(allocation), "--for=alloc-000000000001");
    assert_eq!(environment["FILE"].for_allocation(allocation), "/home/ada/alloc-000000000001.json");
    assert_eq!(folder_of(&read, allocation), Path::new("/srv/alloc-000000000001"));
    // A reload compares entries without an allocation.
    let again = |text: &str| {
        let whole = format!(r#"{{"mcpServers": {{"a": {text}}}}}"#);
        Catalog::of_text(Path::new("/srv/servers.json"), whole.as_bytes(), &variable).expect("a catalog").0
    };
    assert_eq!(again(own), again(own));
    assert_ne!(again(own), again(&own.replace("--for=${CORTEX_ALLOCATION_ID}", "--for=")));
    assert_ne!(again(own), again(&own.replace("${CORTEX_ALLOCATION_ID}.json", ".json${CORTEX_ALLOCATION_ID}")));
    assert!(!format!("{read:?}").contains("ada"), "{read:?}");

    let shared = "names CORTEX_ALLOCATION_ID, but allocations share this server: remove it, or add \
                  \"cortex\": {\"sharing\": \"per_allocation\"} to the entry";
    let check = |fields: &str, place: &str| {
        check_refused(&format!(r#"{{"command": "x", {fields}}}"#), &format!("mcpServers.a.{place} {shared}"));
    };
    check(r#""args": ["y", "${CORTEX_ALLOCATION_ID}"]"#, "args[1]");
    check(r#""env": {"A": "${CORTEX_ALLOCATION_ID:-none}"}, "cortex": {"sharing": "shared"}"#, "env.A");
    check(r#""cwd": "/x/${CORTEX_ALLOCATION_ID}""#, "cwd");
    let not_allowed = "names CORTEX_ALLOCATION_ID, which is allowed only in args, env and cwd: remove it";
    let private = r#""cortex": {"sharing": "per_allocation"}"#;
    check_refused(
        &format!(r#"{{"command": "${{CORTEX_ALLOCATION_ID}}", {private}}}"#),
        &format!("mcpServers.a.command {not_allowed}"),
    );
    check_refused(
        &format!(r#"{{"url": "http://x/${{CORTEX_ALLOCATION_ID}}", {private}}}"#),
        &format!("mcpServers.a.url {not_allowed}"),
    );
    check_refused(
        r#"{"command": "x", "cortex": {"sharing": "per_allocation", "roots": ["/${CORTEX_ALLOCATION_ID}"]}}"#,
        &format!("mcpServers.a.cortex.roots[0] {not_allowed}"),
    );
}

#[test]
fn ignored_keys_have_warnings() {
    let (_, warnings) = read(
        r#"{"servers": {}, "mcpServers": {
            "a": {"command": "sh", "args": ["-c", "${x%/}"], "envFile": ".env", "headers": {}},
            "b": {"url": "http://localhost:1", "env": {}}}}"#,
    );
    let messages: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    let expected = [
        "servers is ignored because mcpServers is present",
        "mcpServers.a.envFile is not a known key and is ignored",
        "mcpServers.a.headers is ignored because the entry has a command",
        "mcpServers.a.args[1] has a ${ that does not begin ${NAME} or ${NAME:-default}: it stays as it is",
        "mcpServers.b.env is ignored because the entry has a url",
    ];
    assert_eq!(messages, expected);

    let many: Vec<String> = (0..150).map(|number| format!("\"key{number}\": 1")).collect();
    let (_, warnings) = read(&format!(r#"{{"mcpServers": {{"a": {{"command": "x", {}}}}}}}"#, many.join(", ")));
    assert_eq!(warnings.len(), 101);
    assert_eq!(warnings.last().map(ToString::to_string).as_deref(), Some("the catalog has 50 more warnings"));
}

#[test]
fn an_invalid_entry_is_named_by_its_key_path() {
    check_refused("1", "mcpServers.a is a number: give an object with command, or url");
    check_refused("{}", "mcpServers.a.command is missing: give command, or url");
    check_refused(
        r#"{"type": "stdio"}"#,
        "mcpServers.a.command is missing: give a command, or set type to http and give a url",
    );
    check_refused(
        r#"{"type": "http", "command": "x"}"#,
        "mcpServers.a.url is missing: give a url, or set type to stdio and give a command",
    );
    check_refused(
        r#"{"command": "x", "url": "http://x"}"#,
        "mcpServers.a has both command and url: remove one of them",
    );
    check_refused(
        r#"{"type": "sse", "url": "http://x"}"#,
        "mcpServers.a.type is sse, a transport that MCP has removed: give the server's url for Streamable HTTP, and \
         set type to http",
    );
    check_refused(
        r#"{"type": "ws", "url": "http://x"}"#,
        "mcpServers.a.type is \"ws\": give stdio, http or streamable-http",
    );
    check_refused(r#"{"command": ""}"#, "mcpServers.a.command is empty: give a program");
    check_refused(r#"{"command": ["x"]}"#, "mcpServers.a.command is an array: give a string");
    check_refused(r#"{"command": "x", "args": "hunter2"}"#, "mcpServers.a.args is a string: give an array of strings");
    check_refused(r#"{"command": "x", "args": ["y", 2]}"#, "mcpServers.a.args[1] is a number: give a string");
    check_refused(r#"{"command": "x", "env": {"A": ["hunter2"]}}"#, "mcpServers.a.env.A is an array: give a string");
    check_refused(
        r#"{"command": "x", "env": {"A=B": ""}}"#,
        "mcpServers.a.env.A=B is not a valid variable name: give a name without =",
    );
    check_refused(
        r#"{"command": "x", "args": ["hunter2\u0000"]}"#,
        "mcpServers.a.args[0] contains a NUL character, which a process cannot receive: remove it",
    );
    check_refused(
        r#"{"command": "x", "env": {"A": "${SECRET}${API_KEY}"}}"#,
        "mcpServers.a.env.A names the variable API_KEY, which is not set: set it where the manager is started, or give \
         ${API_KEY:-a default}",
    );
    check_refused(r#"{"disabled": "yes"}"#, "mcpServers.a.disabled is a string: give true or false");
    for url in ["ftp://x/hunter2", "hunter2", "http://", "http:///hunter2", "//x/hunter2", "http://a b"] {
        check_refused(
            &format!(r#"{{"url": "{url}"}}"#),
            "mcpServers.a.url is not the URL of a server: give a url that begins with http:// or https://",
        );
    }
    check_refused(
        r#"{"url": "http://x", "headers": {"a b": "c"}}"#,
        "mcpServers.a.headers.a b is not a valid header name: give letters, digits and hyphens",
    );
    check_refused(
        r#"{"url": "http://x", "headers": {"A": "hunter2\r\nB: c"}}"#,
        "mcpServers.a.headers.A cannot be sent as a header: give one line without control characters",
    );
}

#[test]
fn an_invalid_cortex_block_is_named_by_its_key_path() {
    let check = |block: &str, expected: &str| {
        check_refused(&format!(r#"{{"command": "x", "cortex": {block}}}"#), &format!("mcpServers.a.cortex{expected}"));
    };
    check("[]", " is an array: give an object");
    check(r#"{"idle-seconds": 1}"#, ".idle-seconds is not a known key: did you mean idle_seconds?");
    check(
        r#"{"colour": 1}"#,
        ".colour is not a known key: the known keys are sharing, idle_seconds, start_timeout_seconds, \
         max_calls_in_flight, memory_mb, roots",
    );
    check(r#"{"sharing": "none"}"#, ".sharing is \"none\": give shared or per_allocation");
    check(r#"{"sharing": 1}"#, ".sharing is a number: give shared or per_allocation");
    check(r#"{"idle_seconds": 86401}"#, ".idle_seconds is 86401: give a whole number from 0 to 86400");
    check(r#"{"idle_seconds": -1}"#, ".idle_seconds is -1: give a whole number from 0 to 86400");
    check(r#"{"idle_seconds": "1"}"#, ".idle_seconds is a string: give a whole number from 0 to 86400");
    check(r#"{"start_timeout_seconds": 0}"#, ".start_timeout_seconds is 0: give a whole number from 1 to 600");
    check(r#"{"max_calls_in_flight": 1.5}"#, ".max_calls_in_flight is 1.5: give a whole number from 1 to 10000");
    check(r#"{"memory_mb": 15}"#, ".memory_mb is 15: give a whole number from 16 to 1099511627776");
    check(r#"{"roots": "/"}"#, ".roots is a string: give an array of absolute paths");
    for root in ["work", "", "file://host/x", "/a/../b", "https://x/"] {
        check(
            &format!(r#"{{"roots": ["{root}"]}}"#),
            ".roots[0] is not a root: give an absolute path, or a URI that begins with file:///",
        );
    }
}

#[test]
fn an_invalid_file_is_refused() {
    let missing = r#"mcpServers is missing: give {"mcpServers": {"a name": {"command": "…"}}}"#;
    check_whole_refused("{}", missing);
    check_whole_refused("[]", missing);
    check_whole_refused(
        r#"{"mcpServers": []}"#,
        "mcpServers is an array: give an object with an entry for each server",
    );
    check_whole_refused(
        r#"{"mcpServers": {"a\nb": {}}}"#,
        "mcpServers has an entry named \"a\u{FFFD}b\": a name has 1 to 256 characters and no control characters",
    );
    let many: Vec<String> = (0..1_001).map(|number| format!(r#""{number}": {{"command": "x"}}"#)).collect();
    check_whole_refused(
        &format!(r#"{{"mcpServers": {{{}}}}}"#, many.join(",")),
        "mcpServers has 1001 entries: give at most 1000",
    );
    assert!(matches!(read_file("{\"mcpServers\": {},}"), Err(CatalogError::NotJson { .. })));
    assert!(matches!(read_file(&"[".repeat(100_000)), Err(CatalogError::NotJson { .. })), "nested too deeply");
    assert!(matches!(read_file(&" ".repeat(1_048_577)), Err(CatalogError::TooLarge { .. })));

    let folder = tempfile::tempdir().expect("a folder");
    for path in [folder.path().to_owned(), folder.path().join("missing.json")] {
        let error = Catalog::read(&path, &|_| None).expect_err("no file");
        assert!(error.source().is_some() && error.to_string().contains("cannot be read"), "{error}");
    }
}

#[test]
fn a_file_that_is_damaged_is_read_or_refused() {
    let good = r#"{"mcpServers":{"a":{"command":"x","args":["${HOME}"],"env":{"A":"${SECRET}"},"cwd":"/","cortex":
        {"memory_mb":16,"roots":["/é"]}},"b":{"url":"http://x/${SECRET}","type":"http","headers":{"C":"${SECRET}"}}}}"#;
    let check = |text: &str| {
        if let Err(error) = Catalog::of_text(Path::new("servers.json"), text.as_bytes(), &variable) {
            assert!(!format!("{error:?} {error}").contains("hunter2"), "{text}: {error}");
        }
    };
    for (at, _) in good.char_indices() {
        check(&good[..at]);
        let mut rest = good[at..].chars();
        rest.next();
        for other in ["", "\"", "{", "]", ",", "0", "$", "}", "\\u0000", "\u{85}"] {
            check(&format!("{}{other}{}", &good[..at], rest.as_str()));
        }
    }
}
