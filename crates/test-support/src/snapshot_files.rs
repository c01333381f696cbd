//! The files of a folder of snapshots, of which each is compared with a thing of the same name.

use std::collections::BTreeSet;
use std::path::Path;

/// Fails if a folder has a snapshot of something that no longer exists, or lacks one.
#[track_caller]
pub fn assert_names(folder: &Path, expected: &BTreeSet<String>) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("an entry of the folder").path());
    let found: BTreeSet<String> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "snap"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    let leftover: Vec<_> = found.difference(expected).collect();
    assert!(
        leftover.is_empty(),
        "delete from {} the snapshots of what no longer exists: {leftover:?}",
        folder.display()
    );
    let missing: Vec<_> = expected.difference(&found).collect();
    assert!(missing.is_empty(), "{} lacks the snapshots of {missing:?}", folder.display());
}
