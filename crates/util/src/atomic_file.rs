//! Atomic replacement of files: a reader, also after a crash, finds either the old content or the new content.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::Path,
};

/// Replaces the file at `path` by a new one that only its owner can read. The new content is first written to a file
/// with the suffix `.new`; a file or link of that name is removed, and a link is not followed.
///
/// # Errors
/// The folder or the file cannot be written. The old file is unchanged then.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_a_link_next_to_it_is_not_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, other) = (folder.path().join("file"), folder.path().join("other"));
        replace(&path, b"first").expect("a file");
        fs::write(&other, "other").expect("a file");
        #[cfg(unix)]
        std::os::unix::fs::symlink(&other, folder.path().join("file.new")).expect("a link");
        replace(&path, b"second").expect("a file");
        assert_eq!(fs::read_to_string(&path).expect("a file"), "second");
        assert_eq!(fs::read_to_string(&other).expect("a file"), "other");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 2);
        #[cfg(unix)]
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).expect("a file").permissions()) & 0o777,
            0o600
        );
        assert!(replace(&folder.path().join("none/file"), b"").is_err());
    }
}
