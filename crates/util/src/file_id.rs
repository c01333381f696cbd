//! Which file it is, whatever its name: what was opened may be removed or replaced under its name.

use std::fs::Metadata;

/// The device and the number of a file. As long as anybody has the file open, no other has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId(u64, u64);

impl FileId {
    /// That of the file that this was learnt of. Elsewhere than on Unix, where a file that is open cannot be removed, all
    /// are the same.
    #[must_use]
    pub fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            Self(metadata.dev(), metadata.ino())
        }
        #[cfg(not(unix))]
        {
            let _ = metadata;
            Self(0, 0)
        }
    }
}
