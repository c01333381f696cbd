//! The bottleneck monitor: publishes the bottlenecks of the last check, and logs each one once when it appears and once
//! when it is gone.

use cortex_engine::{EngineError, EngineHandle};
use cortex_planning::{Bottleneck, Bottlenecks, Subject};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::watch;

/// The largest number of bottlenecks that one check logs one by one, of those that appeared and of those that are gone.
/// Of the others it logs the number.
const LINES_MAX: usize = 100;

/// Checks for bottlenecks, and remembers those it has logged.
pub(super) struct BottleneckMonitor {
    published: watch::Sender<Option<Arc<Bottlenecks>>>,
    known: BTreeSet<Subject>,
}

impl BottleneckMonitor {
    pub(super) const fn new(published: watch::Sender<Option<Arc<Bottlenecks>>>) -> Self {
        Self { published, known: BTreeSet::new() }
    }

    /// Checks once. Notifies the receivers only if anything but the time has changed.
    pub(super) async fn check(&mut self, engine: &EngineHandle) -> Result<Arc<Bottlenecks>, EngineError> {
        let bottlenecks = Arc::new(Bottlenecks::find(&engine.read(|state, now| state.fleet_metrics(now)).await?));
        let (appeared, gone) = self.update(&bottlenecks);
        appeared.iter().take(LINES_MAX).for_each(|bottleneck| log_appeared(bottleneck));
        gone.iter().take(LINES_MAX).for_each(log_gone);
        for (more, what) in [(appeared.len(), "appeared"), (gone.len(), "are gone")] {
            if let Some(more @ 1..) = more.checked_sub(LINES_MAX) {
                tracing::warn!(more, "more bottlenecks {what}: call detect_bottlenecks for the list");
            }
        }
        self.published.send_if_modified(|published| {
            // Before the first check no bottleneck is known.
            let is_changed = published.as_ref().map_or(&[][..], |published| &published.found) != bottlenecks.found;
            *published = Some(Arc::clone(&bottlenecks));
            is_changed
        });
        Ok(bottlenecks)
    }

    /// Returns the bottlenecks that appeared since the last check, and the subjects of those that are gone.
    fn update<'a>(&mut self, bottlenecks: &'a Bottlenecks) -> (Vec<&'a Bottleneck>, Vec<Subject>) {
        let subjects: BTreeSet<Subject> = bottlenecks.found.iter().map(|one| one.subject.clone()).collect();
        let appeared = bottlenecks.found.iter().filter(|one| !self.known.contains(&one.subject)).collect();
        let gone = self.known.difference(&subjects).cloned().collect();
        self.known = subjects;
        (appeared, gone)
    }
}

fn log_appeared(bottleneck: &Bottleneck) {
    let Bottleneck { subject, severity, description, advice, .. } = bottleneck;
    tracing::warn!(
        bottleneck = subject.kind(),
        affected = subject.name().unwrap_or("all"),
        severity = severity.as_str(),
        description,
        advice,
        "bottleneck appeared"
    );
}

fn log_gone(subject: &Subject) {
    tracing::info!(bottleneck = subject.kind(), affected = subject.name().unwrap_or("all"), "bottleneck is gone");
}

#[cfg(test)]
mod tests {
    use super::*;
    use cortex_core::fleet::view::WaitingTasks;
    use cortex_core::ids::AgentId;
    use cortex_core::time::Timestamp;
    use cortex_planning::{Evidence, Severity};

    #[test]
    fn each_is_reported_once_when_it_appears_and_once_when_it_is_gone() {
        let (publish, _published) = watch::channel(None);
        let mut monitor = BottleneckMonitor::new(publish);
        let agent = |name: &str| Subject::Agent(AgentId::new(name).expect("a name"));
        let mut check = |found: &[(Subject, Severity)], appeared: &[Subject], gone: &[Subject]| {
            let found = found.iter().map(|(subject, severity)| Bottleneck {
                subject: subject.clone(),
                severity: *severity,
                evidence: Evidence::Queue {
                    waiting: WaitingTasks::default(),
                    deferred: 0,
                    unserved: 0,
                    running: 0,
                    agents: 0,
                },
                description: String::new(),
                advice: String::new(),
            });
            let bottlenecks = Bottlenecks { at: Timestamp::from_millis(0), found: found.collect() };
            let (now_found, now_gone) = monitor.update(&bottlenecks);
            let now_found: Vec<Subject> = now_found.iter().map(|one| one.subject.clone()).collect();
            assert_eq!((now_found.as_slice(), now_gone.as_slice()), (appeared, gone));
        };
        check(&[], &[], &[]);
        check(&[(agent("a"), Severity::Low)], &[agent("a")], &[]);
        check(&[(agent("a"), Severity::High)], &[], &[]);
        check(&[(agent("b"), Severity::High), (agent("a"), Severity::Low)], &[agent("b")], &[]);
        check(&[(agent("b"), Severity::High), (Subject::Queue, Severity::Low)], &[Subject::Queue], &[agent("a")]);
        check(&[], &[], &[agent("b"), Subject::Queue]);
        check(&[(agent("a"), Severity::Low)], &[agent("a")], &[]);
    }
}
