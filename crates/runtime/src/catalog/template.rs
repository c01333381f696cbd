//! A text of an entry into which the id of an allocation can be inserted.

use std::fmt;

use cortex_core::ids::AllocationId;

/// A text that becomes complete when a process is started for an allocation.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Template {
    /// The parts between the insertions of the id; a single one if there are none.
    parts: Vec<String>,
}

impl Template {
    pub(super) const fn new(parts: Vec<String>) -> Self {
        Self { parts }
    }

    /// Returns whether the id of the allocation is inserted into it.
    #[must_use]
    pub(crate) fn names_allocation(&self) -> bool {
        self.parts.len() > 1
    }

    pub(super) fn contains_nul(&self) -> bool {
        self.parts.iter().any(|part| part.contains('\0'))
    }

    /// Returns the text for an allocation. Without an allocation, nothing is inserted.
    #[must_use]
    pub(crate) fn for_allocation(&self, allocation: Option<AllocationId>) -> String {
        match allocation {
            Some(allocation) => self.parts.join(&allocation.to_string()),
            None => self.parts.concat(),
        }
    }

    /// Returns the text, unless the id of the allocation is inserted into it.
    pub(super) fn plain(mut self) -> Option<String> {
        if self.names_allocation() { None } else { self.parts.pop() }
    }
}

impl From<String> for Template {
    fn from(text: String) -> Self {
        Self::new(vec![text])
    }
}

impl fmt::Debug for Template {
    /// Leaves out the text, which may be secret.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Template").field("names_allocation", &self.names_allocation()).finish_non_exhaustive()
    }
}
