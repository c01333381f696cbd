//! The daemon's log: a file of bounded size, with one older file next to it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use cortex_util::file_id::FileId;

/// The size at which the log is rotated, in bytes.
const LOG_BYTES_MAX: u64 = 4 * 1_048_576;

/// The extension of the older file.
const OLDER_EXTENSION: &str = "log.1";

/// Opens the file for appending. It is created if missing, and only its user can read it.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// Returns whether standard error is this file, as in a daemon that a session started. A daemon that was started by
/// hand logs to its own standard error, as a service manager expects.
pub(super) fn is_standard_error(path: &Path) -> bool {
    let standard_error = io::stderr().as_fd().try_clone_to_owned().and_then(|stream| File::from(stream).metadata());
    match (standard_error, fs::metadata(path)) {
        (Ok(ours), Ok(file)) => FileId::of(&ours) == FileId::of(&file),
        _ => false,
    }
}

/// A writer that rotates the file when it is full. Each write consists of whole lines.
#[derive(Debug)]
pub(super) struct RotatingLog {
    path: PathBuf,
    file: File,
    written: u64,
    bytes_max: u64,
}

impl RotatingLog {
    pub(super) fn new(path: PathBuf) -> io::Result<Self> {
        Self::with_bound(path, LOG_BYTES_MAX)
    }

    fn with_bound(path: PathBuf, bytes_max: u64) -> io::Result<Self> {
        let file = open(&path)?;
        let written = file.metadata()?.len();
        Ok(Self { path, file, written, bytes_max })
    }

    fn rotate(&mut self) -> io::Result<()> {
        fs::rename(&self.path, self.path.with_extension(OLDER_EXTENSION))?;
        self.file = open(&self.path)?;
        self.written = 0;
        Ok(())
    }

    /// Reopens the file if it was removed or renamed, since lines in the old file would not be found.
    fn reopen_if_replaced(&mut self) -> io::Result<()> {
        let (ours, there) = (self.file.metadata()?, fs::metadata(&self.path));
        if there.is_ok_and(|there| FileId::of(&there) == FileId::of(&ours)) {
            return Ok(());
        }
        self.file = open(&self.path)?;
        self.written = self.file.metadata()?.len();
        Ok(())
    }
}

impl Write for RotatingLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // If this fails, the old file is better than none.
        let _ = self.reopen_if_replaced();
        if self.written > 0 && self.written + bytes.len() as u64 > self.bytes_max {
            self.rotate()?;
        }
        let count = self.file.write(bytes)?;
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_bounded_and_its_last_lines_are_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("memory.log");
        fs::write(&path, "an earlier run\n").expect("a file");
        let mut log = RotatingLog::with_bound(path.clone(), 100).expect("a file");
        for number in 0..50 {
            writeln!(log, "line {number}").expect("a line");
        }
        let read = |path: &Path| fs::read_to_string(path).expect("a file");
        let (newer, older) = (read(&path), read(&folder.path().join("memory.log.1")));
        assert!(newer.len() <= 100 && older.len() <= 100, "{} and {}", newer.len(), older.len());
        assert!(format!("{older}{newer}").ends_with("line 48\nline 49\n"), "{older}{newer}");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 2);
        assert!(!is_standard_error(&path));
        fs::remove_file(&path).expect("a file");
        writeln!(log, "line 50").expect("a line");
        assert_eq!(read(&path), "line 50\n", "a file that was removed is created again");
    }
}
