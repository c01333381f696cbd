//! The commit watermark: the end of the log after the last commit, kept in a file next to the state file.
//!
//! SQLite treats the first damaged frame of its write-ahead log as the end of the log and silently drops the commits
//! after it, although they were acknowledged. The watermark reveals that. It is written after each commit without a
//! sync, so after a crash of the process it is never ahead of the log, nor after a power failure if commits are `full`.
//! If commits are `normal`, a power failure may drop the end of the log; the boot id in the watermark distinguishes
//! that case from damage.

use super::schema::Synchronous;
use super::snapshot_file::Anchor;
use super::snapshots;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The last committed event of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CommitWatermark {
    pub(super) log_id: String,
    pub(super) sequence: u64,
    pub(super) chain: u32,
    is_full: bool,
    /// The boot id of the machine at the time; empty where the system has none.
    boot: String,
}

impl CommitWatermark {
    /// Whether a power failure since then may have dropped commits up to the watermark.
    pub(super) fn may_exceed_log(&self) -> bool {
        !self.is_full && (self.boot.is_empty() || self.boot != boot())
    }
}

/// The file of the watermark, open to be overwritten.
#[derive(Debug)]
pub(super) struct WatermarkFile {
    file: File,
    watermark: CommitWatermark,
    bytes: Vec<u8>,
}

impl WatermarkFile {
    /// Opens or creates the file, and writes the end of the log.
    pub(super) fn create(state: &Path, synchronous: Synchronous, anchor: &Anchor) -> io::Result<Self> {
        let watermark = CommitWatermark {
            log_id: anchor.log_id.clone(),
            sequence: 0,
            chain: 0,
            is_full: synchronous == Synchronous::Full,
            boot: boot(),
        };
        // Overwritten without truncation, since a full disk might have no space for a new block.
        let file = snapshots::open_private(&watermark_path(state))?;
        let mut file = Self { file, watermark, bytes: Vec::new() };
        file.write(anchor)?;
        Ok(file)
    }

    /// Writes the end of the log.
    pub(super) fn write(&mut self, anchor: &Anchor) -> io::Result<()> {
        (self.watermark.sequence, self.watermark.chain) = (anchor.sequence, anchor.chain);
        self.bytes.clear();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes = postcard::to_extend(&self.watermark, std::mem::take(&mut self.bytes)).map_err(io::Error::other)?;
        let checksum = crc32fast::hash(&self.bytes[4..]);
        self.bytes[..4].copy_from_slice(&checksum.to_le_bytes());
        // In one write, so that a crash of the process leaves either the old or the new watermark.
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&self.bytes)
    }
}

/// Reads the watermark of a state. Returns `None` if there is none, as for a copy of a state, or it is unreadable.
pub(super) fn read(state: &Path) -> Option<CommitWatermark> {
    let bytes = fs::read(watermark_path(state)).ok()?;
    let (checksum, body) = bytes.split_first_chunk::<4>()?;
    let (watermark, rest) = postcard::take_from_bytes::<CommitWatermark>(body).ok()?;
    // A shorter watermark leaves the end of a longer one after it.
    let body = &body[..body.len() - rest.len()];
    (crc32fast::hash(body) == u32::from_le_bytes(*checksum)).then_some(watermark)
}

/// The path of the watermark of a state.
pub(super) fn watermark_path(state: &Path) -> PathBuf {
    snapshots::with_suffix(state, ".mark")
}

/// The boot id of the machine; empty where the system has none.
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
    fn the_last_watermark_is_read_and_a_damaged_one_is_ignored() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join("state.db");
        assert_eq!(read(&state), None);
        let mut file = WatermarkFile::create(&state, Synchronous::Full, &anchor(u64::MAX)).expect("a file");
        file.write(&anchor(300)).expect("a file");
        let watermark = read(&state).expect("a watermark");
        assert_eq!((watermark.sequence, watermark.chain, watermark.may_exceed_log()), (300, 7, false));
        let good = fs::read(watermark_path(&state)).expect("a file");
        for index in 0..good.len() - 9 {
            let mut bytes = good.clone();
            bytes[index] ^= 4;
            fs::write(watermark_path(&state), &bytes).expect("a file");
            assert_eq!(read(&state), None, "byte {index}");
        }
        fs::write(watermark_path(&state), "").expect("a file");
        assert_eq!(read(&state), None);
    }

    #[test]
    fn only_a_normal_commit_of_another_boot_may_be_lost() {
        let watermark = |is_full, boot: &str| CommitWatermark { is_full, boot: boot.to_owned(), ..sample() };
        assert!(!watermark(true, "another").may_exceed_log());
        assert!(!watermark(false, &boot()).may_exceed_log() || boot().is_empty());
        assert!(watermark(false, "another").may_exceed_log());
        assert!(watermark(false, "").may_exceed_log());
    }

    fn sample() -> CommitWatermark {
        CommitWatermark { log_id: String::new(), sequence: 1, chain: 1, is_full: true, boot: String::new() }
    }
}
