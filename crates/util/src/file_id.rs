//! The identity of a file, independent of its name: an open file may be removed or replaced under its name.

use std::fs::Metadata;

/// The device and inode number of a file. They are unique as long as any process has the file open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId(u64, u64);

impl FileId {
    /// Returns the id of the file with this metadata. On systems other than Unix, where an open file cannot be removed,
    /// all ids are equal.
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
