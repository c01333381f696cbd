//! The catalog file, which may change while the manager runs.
//!
//! Invariants: a published catalog was read completely and is valid; and an invalid file is logged once, not at each
//! check.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::{Catalog, CatalogError, Warning};
use cortex_util::error::with_sources;
use cortex_util::file_id::FileId;

/// The time between two checks of the file.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The age after which another change of a file has another timestamp, even on file systems with coarse timestamps.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// Looks up the variables that a catalog refers to.
pub(crate) type Variables = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// The catalog file, and the catalog that was last read from it.
pub(crate) struct CatalogFile {
    path: PathBuf,
    variables: Variables,
    /// The stamp of the file before it was last read; absent if its metadata could not be read.
    stamp: Option<FileStamp>,
    current: Arc<Catalog>,
    /// Why the file was refused when it was last read, if it was.
    error: Option<String>,
}

/// Metadata that differ between two states of a file.
#[derive(PartialEq)]
struct FileStamp {
    modified: Option<SystemTime>,
    length: u64,
    file: FileId,
    /// Whether the last change is older than [`SETTLED_AFTER`]. Until then, another change may leave the timestamp the
    /// same, so that the file is read once more when this becomes true.
    is_settled: bool,
}

/// The result of reading the file again.
enum Reload {
    /// It has not changed, or was refused before for the same reason.
    Unchanged,
    /// It has a good catalog that differs from the current one.
    Changed,
    /// It cannot be used, for this reason.
    Invalid(String),
}

impl CatalogFile {
    /// Reads the file at `path` for the first time.
    ///
    /// # Errors
    /// Those of [`Catalog::read`].
    pub(crate) fn open(path: PathBuf, variables: Variables) -> Result<(Self, Vec<Warning>), CatalogError> {
        // Taken before the file is read, so that a change during the reading is seen at the next check.
        let stamp = FileStamp::of(&path);
        let (catalog, warnings) = Catalog::read(&path, &*variables)?;
        Ok((Self { path, variables, stamp, current: Arc::new(catalog), error: None }, warnings))
    }

    /// Returns the last valid catalog.
    #[must_use]
    pub(crate) fn catalog(&self) -> &Arc<Catalog> {
        &self.current
    }

    /// Checks the file every second, and publishes each valid catalog that differs from the last one. An invalid file
    /// is logged, and the last catalog stays. Ends when all receivers are dropped.
    ///
    /// Must be called on a tokio runtime with time.
    #[must_use]
    pub(crate) fn watch(self) -> watch::Receiver<Arc<Catalog>> {
        self.watch_every(CHECK_INTERVAL)
    }

    fn watch_every(mut self, period: Duration) -> watch::Receiver<Arc<Catalog>> {
        let (publisher, catalogs) = watch::channel(Arc::clone(&self.current));
        tokio::spawn(async move {
            let mut ticks = interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = publisher.closed() => return,
                    _ = ticks.tick() => {}
                }
                if FileStamp::of(&self.path) == self.stamp {
                    continue;
                }
                // On another thread, since reading a large file would delay the messages of servers.
                let reloaded = tokio::task::spawn_blocking(move || {
                    let reload = self.reload();
                    (self, reload)
                });
                let Ok((file, reload)) = reloaded.await else { return };
                self = file;
                match reload {
                    Reload::Unchanged => {}
                    Reload::Changed => {
                        let servers = self.current.entries.len();
                        tracing::info!(path = %self.path.display(), servers, "catalog changed");
                        publisher.send_replace(Arc::clone(&self.current));
                    }
                    Reload::Invalid(error) => {
                        tracing::error!(%error, "changed catalog was refused: the previous one stays in use");
                    }
                }
            }
        });
        catalogs
    }

    /// Reads the file again.
    fn reload(&mut self) -> Reload {
        self.stamp = FileStamp::of(&self.path);
        match Catalog::read(&self.path, &*self.variables) {
            Ok((catalog, warnings)) => {
                self.error = None;
                if catalog == *self.current {
                    return Reload::Unchanged;
                }
                for warning in warnings {
                    tracing::warn!(%warning, "catalog has a warning");
                }
                self.current = Arc::new(catalog);
                Reload::Changed
            }
            Err(error) => {
                let error = with_sources(&error);
                if self.error.as_ref() == Some(&error) {
                    return Reload::Unchanged;
                }
                self.error = Some(error.clone());
                Reload::Invalid(error)
            }
        }
    }
}

impl FileStamp {
    fn of(path: &std::path::Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        let modified = metadata.modified().ok();
        let age = modified.and_then(|modified| modified.elapsed().ok());
        Some(Self {
            modified,
            length: metadata.len(),
            file: FileId::of(&metadata),
            is_settled: age.is_none_or(|age| age >= SETTLED_AFTER),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;
    use tokio::time::timeout;

    const WAIT_MAX: Duration = Duration::from_secs(20);

    fn names(catalog: &Catalog) -> Vec<&str> {
        catalog.entries.keys().map(|name| name.as_str()).collect()
    }

    fn with_server(name: &str) -> String {
        format!(r#"{{"mcpServers": {{"{name}": {{"command": "a-server"}}}}}}"#)
    }

    fn opened(path: &Path) -> CatalogFile {
        CatalogFile::open(path.to_owned(), Arc::new(|_| None)).expect("a good catalog").0
    }

    #[test]
    fn an_invalid_file_is_reported_once_and_the_old_catalog_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("servers.json");
        fs::write(&path, with_server("first")).expect("a file");
        let mut file = opened(&path);
        assert!(matches!(file.reload(), Reload::Unchanged), "nothing changed");

        fs::write(&path, "{").expect("a file");
        let Reload::Invalid(error) = file.reload() else { panic!("no JSON") };
        assert!(error.contains("servers.json is not valid JSON") && error.contains("line 1"), "{error}");
        assert!(matches!(file.reload(), Reload::Unchanged), "reported once");
        assert_eq!(names(file.catalog()), ["first"]);

        fs::remove_file(&path).expect("the file");
        assert!(matches!(file.reload(), Reload::Invalid(_)), "reported again: the reason differs");
        assert!(matches!(file.reload(), Reload::Unchanged));

        fs::write(&path, with_server("first")).expect("a file");
        assert!(matches!(file.reload(), Reload::Unchanged), "as it was");
        fs::write(&path, with_server("second")).expect("a file");
        assert!(matches!(file.reload(), Reload::Changed));
        assert_eq!(names(file.catalog()), ["second"]);
    }

    #[tokio::test]
    async fn a_change_is_published_even_if_the_file_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("servers.json");
        fs::write(&path, with_server("aa")).expect("a file");
        let mut catalogs = opened(&path).watch_every(Duration::from_millis(2));
        assert_eq!(names(&catalogs.borrow_and_update()), ["aa"]);

        fs::write(&path, with_server("longer")).expect("a file");
        timeout(WAIT_MAX, catalogs.changed()).await.expect("in time").expect("a catalog");
        assert_eq!(names(&catalogs.borrow_and_update()), ["longer"]);

        // As an editor does: another file, with the same length and time, takes the name.
        let modified = fs::metadata(&path).and_then(|metadata| metadata.modified()).expect("a time");
        let replacement = folder.path().join("servers.json.new");
        fs::write(&replacement, with_server("latest")).expect("a file");
        let file = fs::File::options().write(true).open(&replacement).expect("the file");
        file.set_modified(modified).expect("a time");
        drop(file);
        fs::rename(&replacement, &path).expect("the file");
        timeout(WAIT_MAX, catalogs.changed()).await.expect("in time").expect("a catalog");
        assert_eq!(names(&catalogs.borrow_and_update()), ["latest"]);

        // An invalid file in between is skipped.
        fs::write(&path, "{\"mcpServers\": []}").expect("a file");
        fs::write(&path, with_server("at the end")).expect("a file");
        timeout(WAIT_MAX, catalogs.changed()).await.expect("in time").expect("a catalog");
        assert_eq!(names(&catalogs.borrow_and_update()), ["at the end"]);
    }
}
