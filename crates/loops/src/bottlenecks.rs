//! The lookout for bottlenecks: shows what the last look found, and tells of each once when it appears and once when it goes.

use cortex_engine::{EngineError, EngineHandle};
use cortex_planning::{Bottleneck, Bottlenecks, Subject};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::watch;

/// How many that appear, and how many that go, one look tells of at most. Of more it tells the number.
const LINES_MAX: usize = 100;

/// Looks, and remembers what it has told of.
pub(super) struct Lookout {
    shown: watch::Sender<Option<Arc<Bottlenecks>>>,
    known: BTreeSet<Subject>,
}

impl Lookout {
    pub(super) const fn new(shown: watch::Sender<Option<Arc<Bottlenecks>>>) -> Self {
        Self { shown, known: BTreeSet::new() }
    }

    /// Looks once. Whoever watches is told if anything but the time has changed.
    pub(super) async fn look(&mut self, engine: &EngineHandle) -> Result<Arc<Bottlenecks>, EngineError> {
        let bottlenecks = Arc::new(Bottlenecks::find(&engine.fleet_figures().await?));
        let (appeared, gone) = self.note(&bottlenecks);
        appeared.iter().take(LINES_MAX).for_each(|bottleneck| log_appeared(bottleneck));
        gone.iter().take(LINES_MAX).for_each(log_gone);
        for (more, what) in [(appeared.len(), "appeared"), (gone.len(), "are gone")] {
            if let Some(more @ 1..) = more.checked_sub(LINES_MAX) {
                tracing::warn!(more, "bottlenecks {what} that are not told one by one: detect_bottlenecks lists them");
            }
        }
        self.shown.send_if_modified(|shown| {
            // Before the first look nothing was known to hold anything up.
            let is_other = shown.as_ref().map_or(&[][..], |shown| &shown.found) != bottlenecks.found;
            *shown = Some(Arc::clone(&bottlenecks));
            is_other
        });
        Ok(bottlenecks)
    }

    /// Those that appeared since the last look, and those that are gone.
    fn note<'a>(&mut self, bottlenecks: &'a Bottlenecks) -> (Vec<&'a Bottleneck>, Vec<Subject>) {
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
    use cortex_core::fleet::view::Waiting;
    use cortex_core::ids::AgentId;
    use cortex_core::time::Timestamp;
    use cortex_planning::{Evidence, Severity};

    #[test]
    fn each_is_told_once_when_it_appears_and_once_when_it_goes() {
        let (show, _shown) = watch::channel(None);
        let mut lookout = Lookout::new(show);
        let agent = |name: &str| Subject::Agent(AgentId::new(name).expect("a name"));
        let mut check = |found: &[(Subject, Severity)], appeared: &[Subject], gone: &[Subject]| {
            let found = found.iter().map(|(subject, severity)| Bottleneck {
                subject: subject.clone(),
                severity: *severity,
                evidence: Evidence::Queue {
                    waiting: Waiting::default(),
                    deferred: 0,
                    unserved: 0,
                    running: 0,
                    agents: 0,
                },
                description: String::new(),
                advice: String::new(),
            });
            let bottlenecks = Bottlenecks { at: Timestamp::from_millis(0), found: found.collect() };
            let (now_there, now_gone) = lookout.note(&bottlenecks);
            let now_there: Vec<Subject> = now_there.iter().map(|one| one.subject.clone()).collect();
            assert_eq!((now_there.as_slice(), now_gone.as_slice()), (appeared, gone));
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
