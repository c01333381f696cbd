//! The file of a catalog, which may change while the manager runs.
//!
//! Invariants: what is handed out was read whole and is good; and of each state of the file at most one line is logged as
//! an error, however long it stays as it is.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::{Catalog, CatalogError, Warning};
use cortex_util::file_id::FileId;

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How old the last change of a file is when no other can have the same time: that of the coarsest file systems.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// The variables that a catalog may refer to.
pub type Variables = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// The file of a catalog, as it was when it was looked at last.
pub struct CatalogFile {
    path: PathBuf,
    variables: Variables,
    /// What the file looked like before it was read last; nothing if it could not be looked at.
    seen: Option<Stamp>,
    current: Arc<Catalog>,
    /// Why the file was not taken last, if it was not.
    refused: Option<String>,
}

/// What tells one state of a file from another.
#[derive(PartialEq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    file: FileId,
    /// Whether it was left alone for long enough that a change before would show in the time: clocks of files tick slowly.
    /// As it comes to be so the state is another, and the file read once more.
    is_settled: bool,
}

/// What a look at the file found.
enum Look {
    /// Nothing that was not known.
    Nothing,
    /// A good catalog that differs from the one before.
    Changed,
    /// Something that cannot be used, and why.
    Refused(String),
}

impl CatalogFile {
    /// Reads the file at `path` for the first time.
    ///
    /// # Errors
    /// As [`Catalog::read`].
    pub fn open(path: PathBuf, variables: Variables) -> Result<(Self, Vec<Warning>), CatalogError> {
        // Looked at before it is read, so that what is written meanwhile is seen the next time.
        let seen = Stamp::of(&path);
        let (catalog, warnings) = Catalog::read(&path, &*variables)?;
        Ok((Self { path, variables, seen, current: Arc::new(catalog), refused: None }, warnings))
    }

    /// The catalog that was read last and is good.
    #[must_use]
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.current
    }

    /// Looks at the file once a second from now on, and hands out each good catalog that differs from the one before. A
    /// file that cannot be used is logged, and the catalog stays. It ends when nobody receives any more.
    ///
    /// Must be called on a tokio runtime with a clock.
    #[must_use]
    pub fn watch(self) -> watch::Receiver<Arc<Catalog>> {
        self.watch_every(LOOK_EVERY)
    }

    fn watch_every(mut self, period: Duration) -> watch::Receiver<Arc<Catalog>> {
        let (give, take) = watch::channel(Arc::clone(&self.current));
        tokio::spawn(async move {
            let mut looks = interval(period);
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = give.closed() => return,
                    _ = looks.tick() => {}
                }
                if Stamp::of(&self.path) == self.seen {
                    continue;
                }
                // A large file is not read between two messages of a server.
                let looked = tokio::task::spawn_blocking(move || {
                    let look = self.look();
                    (self, look)
                });
                let Ok((file, look)) = looked.await else { return };
                self = file;
                match look {
                    Look::Nothing => {}
                    Look::Changed => {
                        tracing::info!(path = %self.path.display(), servers = self.current.entries.len(), "the catalog has changed");
                        give.send_replace(Arc::clone(&self.current));
                    }
                    Look::Refused(error) => tracing::error!(%error, "the catalog stays as it was"),
                }
            }
        });
        take
    }

    /// Reads the file anew.
    fn look(&mut self) -> Look {
        self.seen = Stamp::of(&self.path);
        match Catalog::read(&self.path, &*self.variables) {
            Ok((catalog, warnings)) => {
                self.refused = None;
                if catalog == *self.current {
                    return Look::Nothing;
                }
                for warning in warnings {
                    tracing::warn!(%warning, "in the catalog");
                }
                self.current = Arc::new(catalog);
                Look::Changed
            }
            Err(error) => {
                let error = with_sources(&error);
                if self.refused.as_ref() == Some(&error) {
                    return Look::Nothing;
                }
                self.refused = Some(error.clone());
                Look::Refused(error)
            }
        }
    }
}

impl Stamp {
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

/// An error and what led to it, on one line.
fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;
    use tokio::time::timeout;

    const PATIENCE: Duration = Duration::from_secs(20);

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
    fn a_bad_file_is_told_of_once_and_the_old_catalog_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("servers.json");
        fs::write(&path, with_server("first")).expect("a file");
        let mut file = opened(&path);
        assert!(matches!(file.look(), Look::Nothing), "nothing changed");

        fs::write(&path, "{").expect("a file");
        let Look::Refused(error) = file.look() else { panic!("no JSON") };
        assert!(error.contains("servers.json is no JSON") && error.contains("line 1"), "{error}");
        assert!(matches!(file.look(), Look::Nothing), "told once");
        assert_eq!(names(file.catalog()), ["first"]);

        fs::remove_file(&path).expect("the file");
        assert!(matches!(file.look(), Look::Refused(_)), "told anew: the reason is another");
        assert!(matches!(file.look(), Look::Nothing));

        fs::write(&path, with_server("first")).expect("a file");
        assert!(matches!(file.look(), Look::Nothing), "as it was");
        fs::write(&path, with_server("second")).expect("a file");
        assert!(matches!(file.look(), Look::Changed));
        assert_eq!(names(file.catalog()), ["second"]);
    }

    #[tokio::test]
    async fn a_change_is_handed_out_however_the_file_is_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("servers.json");
        fs::write(&path, with_server("aa")).expect("a file");
        let mut catalogs = opened(&path).watch_every(Duration::from_millis(2));
        assert_eq!(names(&catalogs.borrow_and_update()), ["aa"]);

        fs::write(&path, with_server("longer")).expect("a file");
        timeout(PATIENCE, catalogs.changed()).await.expect("in time").expect("a catalog");
        assert_eq!(names(&catalogs.borrow_and_update()), ["longer"]);

        // As an editor does: another file, with the same length and time, takes the name.
        let modified = fs::metadata(&path).and_then(|metadata| metadata.modified()).expect("a time");
        let beside = folder.path().join("servers.json.new");
        fs::write(&beside, with_server("latest")).expect("a file");
        let file = fs::File::options().write(true).open(&beside).expect("the file");
        file.set_modified(modified).expect("a time");
        drop(file);
        fs::rename(&beside, &path).expect("the file");
        timeout(PATIENCE, catalogs.changed()).await.expect("in time").expect("a catalog");
        assert_eq!(names(&catalogs.borrow_and_update()), ["latest"]);

        // What is bad meanwhile is passed over.
        fs::write(&path, "{\"mcpServers\": []}").expect("a file");
        fs::write(&path, with_server("at the end")).expect("a file");
        timeout(PATIENCE, catalogs.changed()).await.expect("in time").expect("a catalog");
        assert_eq!(names(&catalogs.borrow_and_update()), ["at the end"]);
    }
}
