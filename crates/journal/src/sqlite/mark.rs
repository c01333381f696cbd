//! How far a log had come when somebody was last told so, kept in a file beside it.
//!
//! SQLite takes the first damaged frame of its write-ahead file for the end of the log: what came after it would be gone
//! without a word, although it was answered for. The mark shows it. It is written behind each commit and not brought to the
//! disk by force, so that it is never ahead of the log after a crash of the process, nor after a power cut if commits are
//! `full`; if they are `normal`, a power cut may take the end of the log, and the mark says so by the boot it is from.

use super::schema::Synchronous;
use super::snapshot_file::Anchor;
use super::snapshots;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Where a log had come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    pub(super) log_id: String,
    pub(super) sequence: u64,
    pub(super) chain: u32,
    is_full: bool,
    /// Which start of the machine it is from; empty where the system does not tell.
    boot: String,
}

impl Mark {
    /// Whether a power cut since may have taken commits that the mark has seen.
    pub(super) fn may_be_ahead(&self) -> bool {
        !self.is_full && (self.boot.is_empty() || self.boot != boot())
    }
}

/// The file of the mark, open to be written over.
#[derive(Debug)]
pub(super) struct MarkFile {
    file: File,
    mark: Mark,
    bytes: Vec<u8>,
}

impl MarkFile {
    /// Opens the file, or makes it, and writes into it how far the log has come.
    pub(super) fn create(state: &Path, synchronous: Synchronous, anchor: &Anchor) -> io::Result<Self> {
        let mark = Mark {
            log_id: anchor.log_id.clone(),
            sequence: 0,
            chain: 0,
            is_full: synchronous == Synchronous::Full,
            boot: boot(),
        };
        // What is there is written over, not cut off: on a full disk there would be no room for it any more.
        let file = snapshots::open_private(&mark_path(state))?;
        let mut file = Self { file, mark, bytes: Vec::new() };
        file.write(anchor)?;
        Ok(file)
    }

    /// Writes how far the log has come.
    pub(super) fn write(&mut self, anchor: &Anchor) -> io::Result<()> {
        (self.mark.sequence, self.mark.chain) = (anchor.sequence, anchor.chain);
        self.bytes.clear();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes = postcard::to_extend(&self.mark, std::mem::take(&mut self.bytes)).map_err(io::Error::other)?;
        let checksum = crc32fast::hash(&self.bytes[4..]);
        self.bytes[..4].copy_from_slice(&checksum.to_le_bytes());
        // In one write, so that a crash of the process leaves the one mark or the other.
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&self.bytes)
    }
}

/// The mark beside a state; nothing if there is none, as beside a copy, or none that can be read.
pub(super) fn read(state: &Path) -> Option<Mark> {
    let bytes = fs::read(mark_path(state)).ok()?;
    let (checksum, body) = bytes.split_first_chunk::<4>()?;
    let (mark, rest) = postcard::take_from_bytes::<Mark>(body).ok()?;
    // A mark that became shorter leaves the end of the longer one behind it.
    let body = &body[..body.len() - rest.len()];
    (crc32fast::hash(body) == u32::from_le_bytes(*checksum)).then_some(mark)
}

/// The file of the mark of a state.
pub(super) fn mark_path(state: &Path) -> PathBuf {
    snapshots::beside(state, ".mark")
}

/// Which start of the machine this is; empty where the system does not tell.
fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anchor(sequence: u64) -> Anchor {
        Anchor { log_id: "log".to_owned(), sequence, chain: 7, at_millis: 0 }
    }

    #[test]
    fn the_last_mark_is_read_and_a_damaged_one_is_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join("state.db");
        assert_eq!(read(&state), None);
        let mut file = MarkFile::create(&state, Synchronous::Full, &anchor(u64::MAX)).expect("a file");
        file.write(&anchor(300)).expect("a file");
        let mark = read(&state).expect("a mark");
        assert_eq!((mark.sequence, mark.chain, mark.may_be_ahead()), (300, 7, false));
        let good = fs::read(mark_path(&state)).expect("a file");
        for place in 0..good.len() - 9 {
            let mut bytes = good.clone();
            bytes[place] ^= 4;
            fs::write(mark_path(&state), &bytes).expect("a file");
            assert_eq!(read(&state), None, "byte {place}");
        }
        fs::write(mark_path(&state), "").expect("a file");
        assert_eq!(read(&state), None);
    }

    #[test]
    fn only_a_normal_commit_before_another_start_may_be_lost() {
        let mark = |is_full, boot: &str| Mark { is_full, boot: boot.to_owned(), ..sample() };
        assert!(!mark(true, "another").may_be_ahead());
        assert!(!mark(false, &boot()).may_be_ahead() || boot().is_empty());
        assert!(mark(false, "another").may_be_ahead());
        assert!(mark(false, "").may_be_ahead());
    }

    fn sample() -> Mark {
        Mark { log_id: String::new(), sequence: 1, chain: 1, is_full: true, boot: String::new() }
    }
}
