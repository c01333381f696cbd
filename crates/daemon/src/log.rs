//! The daemon's log: a file that never grows beyond its bound, with one older beside it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use cortex_util::file_id::FileId;

/// From how many bytes on the file is put aside and another begun.
const LOG_BYTES_MAX: u64 = 4 * 1_048_576;

/// The ending of the older file.
const OLDER_ENDING: &str = "log.1";

/// Opens the file for appending; it is made if it is not there, for its user alone.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// Whether standard error is this file: so it is in a daemon that a session started. One started by hand logs to whatever
/// its standard error is, as a service manager expects.
pub(super) fn is_standard_error(path: &Path) -> bool {
    let standard_error = io::stderr().as_fd().try_clone_to_owned().and_then(|stream| File::from(stream).metadata());
    match (standard_error, fs::metadata(path)) {
        (Ok(ours), Ok(file)) => FileId::of(&ours) == FileId::of(&file),
        _ => false,
    }
}

/// Writes to the file, and begins another when it is full. Each write is whole lines.
#[derive(Debug)]
pub(super) struct Rotating {
    path: PathBuf,
    file: File,
    written: u64,
    bytes_max: u64,
}

impl Rotating {
    pub(super) fn new(path: PathBuf) -> io::Result<Self> {
        Self::with_bound(path, LOG_BYTES_MAX)
    }

    fn with_bound(path: PathBuf, bytes_max: u64) -> io::Result<Self> {
        let file = open(&path)?;
        let written = file.metadata()?.len();
        Ok(Self { path, file, written, bytes_max })
    }

    fn rotate(&mut self) -> io::Result<()> {
        fs::rename(&self.path, self.path.with_extension(OLDER_ENDING))?;
        self.file = open(&self.path)?;
        self.written = 0;
        Ok(())
    }

    /// Begins the file anew if it was removed or put aside by another: nobody would find what is written to the old one.
    fn follow(&mut self) -> io::Result<()> {
        let (ours, there) = (self.file.metadata()?, fs::metadata(&self.path));
        if there.is_ok_and(|there| FileId::of(&there) == FileId::of(&ours)) {
            return Ok(());
        }
        self.file = open(&self.path)?;
        self.written = self.file.metadata()?.len();
        Ok(())
    }
}

impl Write for Rotating {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Where that fails, the old one is better than none.
        let _ = self.follow();
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
        let mut log = Rotating::with_bound(path.clone(), 100).expect("a file");
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
        assert_eq!(read(&path), "line 50\n", "a file that was removed is made anew");
    }
}
