//! Damage in the file of the state after a clean end: it is detected, or the process starts with the correct leases.

use std::fs;

use super::acknowledged::{AcknowledgedLeases, Files, filled};
use crate::support::durable::{Ending, Home, Mode, UNUSABLE, is_retryable, workers};
use serde_json::json;

/// The size of a page, in bytes.
const PAGE_BYTES: usize = 4096;

/// A change of the bytes of the file, near the text of an event in the middle.
type Damage = fn(&mut Vec<u8>, &std::ops::Range<usize>);

/// All kinds of damage, by name.
const DAMAGES: [(&str, Damage); 10] = [
    ("a letter of a job's name", |bytes, text| {
        let name = find(&bytes[text.clone()], b"late-30").expect("the name") + text.start;
        bytes[name] ^= 1;
    }),
    ("a digit of a number", |bytes, text| {
        let number = find(&bytes[text.clone()], b"\"fencing_token\":").expect("the token") + text.start + 16;
        bytes[number] ^= 1;
    }),
    ("the first byte of the text", |bytes, text| bytes[text.start] = 0),
    ("the byte before the text", |bytes, text| bytes[text.start - 1] ^= 1),
    ("the byte behind the text", |bytes, text| bytes[text.end] ^= 1),
    ("the head of the page", |bytes, text| {
        let page = text.start / PAGE_BYTES * PAGE_BYTES;
        bytes[page..page + 8].fill(0xff);
    }),
    ("the page is zeroes", |bytes, text| {
        let page = text.start / PAGE_BYTES * PAGE_BYTES;
        bytes[page..page + PAGE_BYTES].fill(0);
    }),
    ("the page is another one", |bytes, text| {
        let page = text.start / PAGE_BYTES * PAGE_BYTES;
        bytes.copy_within(page - PAGE_BYTES..page, page);
    }),
    ("the end is cut off", |bytes, text| bytes.truncate(text.end.next_multiple_of(PAGE_BYTES))),
    ("the head of the file", |bytes, _| bytes[..16].fill(b' ')),
];

/// Returns the position of the first occurrence of these bytes.
fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Returns the position of the text of an event in the middle of the file.
fn event_in_the_middle(bytes: &[u8]) -> std::ops::Range<usize> {
    let name = find(bytes, b"\"job\":\"late-30\"").expect("the event in the file, once it has ended in order");
    let start =
        bytes[..name].windows(10).rposition(|window| window == b"{\"version\"").expect("the start of the event");
    let mut values = serde_json::Deserializer::from_slice(&bytes[start..]).into_iter::<serde_json::Value>();
    assert!(matches!(values.next(), Some(Ok(_))), "the event is JSON");
    start..start + values.byte_offset()
}

#[test]
fn damage_in_the_middle_is_found_and_never_makes_a_wrong_grant() {
    let home = Home::new();
    let leases = filled(&home);
    let files = Files::of(&home);
    home.printed("verify", &[]);
    let text = event_in_the_middle(&fs::read(home.state()).expect("a file"));
    for (what, damage) in DAMAGES {
        files.restore(&home);
        let mut bytes = fs::read(home.state()).expect("a file");
        damage(&mut bytes, &text);
        fs::write(home.state(), bytes).expect("a file");
        let verified = home.ask("verify", &[]);
        assert_eq!(verified.code, Some(UNUSABLE), "{what}: {verified:#?}");
        leases.check_or_refused(&home, what);
    }
    files.restore(&home);
    home.printed("verify", &[]);
}

/// The number of states with random damage.
const RANDOM_DAMAGES: u64 = 40;

#[test]
fn bytes_changed_anywhere_lead_to_no_panic_and_no_wrong_grant() {
    let home = Home::new();
    let leases = filled(&home);
    let files = Files::of(&home);
    let (mut sound, mut wrong) = (0, 0);
    for seed in 0..RANDOM_DAMAGES {
        let mut random = fastrand::Rng::with_seed(seed);
        files.restore(&home);
        if random.bool() {
            home.snapshots().iter().for_each(|snapshot| fs::remove_file(snapshot).expect("a file"));
        }
        let mut bytes = fs::read(home.state()).expect("a file");
        for _ in 0..random.usize(1..4) {
            let start = random.usize(..bytes.len());
            let end = bytes.len().min(start + random.usize(1..1_500));
            bytes[start..end].fill_with(|| random.u8(..));
        }
        fs::write(home.state(), bytes).expect("a file");
        for (command, options) in
            [("verify", &[][..]), ("events", &["--since", "2020-01-01T00:00:00Z"]), ("status", &[])]
        {
            let ended = home.ask(command, options);
            assert!(matches!(ended.code, Some(0 | UNUSABLE)), "seed {seed}, {command}: {ended:#?}");
            assert!(!ended.log.contains("panicked"), "seed {seed}, {command}: {ended:#?}");
            *(if ended.code == Some(0) { &mut sound } else { &mut wrong }) += 1;
        }
        let log = leases.check_or_refused(&home, &format!("seed {seed}"));
        assert!(!log.contains("panicked"), "seed {seed}: {log}");
    }
    assert!(wrong > RANDOM_DAMAGES, "hardly any damage was met: {wrong}, and {sound} times none");
}

#[test]
fn damage_without_snapshots_is_never_skipped() {
    let home = Home::new();
    let leases = filled(&home);
    let files = Files::of(&home);
    let text = event_in_the_middle(&fs::read(home.state()).expect("a file"));
    for (_, damage) in DAMAGES {
        files.restore(&home);
        home.snapshots().iter().for_each(|snapshot| fs::remove_file(snapshot).expect("a file"));
        let mut bytes = fs::read(home.state()).expect("a file");
        damage(&mut bytes, &text);
        fs::write(home.state(), bytes).expect("a file");
        home.check_unusable(Mode::Never, &[], &[&home.state().display().to_string()]);
    }
    files.restore(&home);
    home.snapshots().iter().for_each(|snapshot| fs::remove_file(snapshot).expect("a file"));
    // The full log alone gives the same leases.
    leases.check_or_refused(&home, "without snapshots");
    let mut session = home.session(Mode::Never, &[]);
    leases.check(&mut session);
}

/// A change of the write-ahead file that a crash left.
type AheadDamage = fn(&mut Vec<u8>);

#[test]
fn a_damaged_write_ahead_file_never_leads_to_an_older_state() {
    let damages: [(&str, AheadDamage); 5] = [
        ("its head", |bytes| bytes[4] ^= 1),
        ("its first frame", |bytes| bytes[32 + 24 + 100] ^= 1),
        ("the middle", |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }),
        ("the second half is cut off", |bytes| bytes.truncate(bytes.len() / 2)),
        ("all is cut off", Vec::clear),
    ];
    let home = Home::new();
    let mut leases = AcknowledgedLeases::default();
    let mut server = home.server(Mode::Never, &[]);
    for number in 0..9 {
        leases.hold(&mut server, &format!("early-{number}"), 1);
    }
    home.end(server, Ending::Killed);
    let ahead = home.beside("-wal");
    let files = Files::of(&home);
    for (what, damage) in damages {
        files.restore(&home);
        let mut bytes = fs::read(&ahead).expect("the write-ahead file of a crash");
        damage(&mut bytes);
        fs::write(&ahead, bytes).expect("a file");
        home.check_unusable(Mode::Never, &[], &["the events between are missing"]);
        let verified = home.ask("verify", &[]);
        assert_eq!(verified.code, Some(UNUSABLE), "{what}: {verified:#?}");
    }
    files.restore(&home);
    fs::remove_file(&ahead).expect("a file");
    home.check_unusable(Mode::Never, &[], &["the events between are missing"]);
    files.restore(&home);
    let mut session = home.session(Mode::Never, &[]);
    leases.check(&mut session);
}

#[test]
fn a_state_with_two_names_has_no_owner() {
    let home = Home::new();
    let leases = filled(&home);
    let other = home.beside("-other");
    fs::hard_link(home.state(), &other).expect("a link");
    home.check_unusable(Mode::Never, &[], &["several names"]);
    fs::remove_file(other).expect("a file");
    let mut session = home.session(Mode::Never, &[]);
    leases.check(&mut session);
}

#[test]
fn a_state_that_is_removed_while_it_is_in_use_grants_nothing_more() {
    let home = Home::new();
    let mut server = home.server(Mode::Never, &[]);
    let mut leases = AcknowledgedLeases::default();
    leases.hold(&mut server, "before", 2);
    fs::remove_file(home.state()).expect("a file");
    let id = server.send("tools/call", &json!({"name": "request_resources", "arguments": workers("after", 1)}));
    // Either the call gets a retryable error, or the process ends before it can answer.
    let is_granted = server.rest().iter().any(|reply| reply["id"] == id && !is_retryable(reply));
    assert!(!is_granted, "a grant written to a removed file");
    assert_eq!(server.end().code(), Some(UNUSABLE));
    assert!(!home.state().exists(), "nothing is made in its place");
}
