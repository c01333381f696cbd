//! A text of an entry in which the id of an allocation may have places.

use std::fmt;

use cortex_core::ids::AllocationId;

/// A text that is whole once it is known for which allocation a process is started.
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    /// What lies between the places of the id: a single text if it has none.
    parts: Vec<String>,
}

impl Template {
    pub(super) const fn new(parts: Vec<String>) -> Self {
        Self { parts }
    }

    /// Whether the id of the allocation has a place in it.
    #[must_use]
    pub fn names_allocation(&self) -> bool {
        self.parts.len() > 1
    }

    pub(super) fn contains_nul(&self) -> bool {
        self.parts.iter().any(|part| part.contains('\0'))
    }

    /// The text for an allocation; where there is none, nothing is put in.
    #[must_use]
    pub fn for_allocation(&self, allocation: Option<AllocationId>) -> String {
        match allocation {
            Some(allocation) => self.parts.join(&allocation.to_string()),
            None => self.parts.concat(),
        }
    }

    /// The text, if the id of the allocation has no place in it.
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
    /// Without the text, which may be secret.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Template").field("names_allocation", &self.names_allocation()).finish_non_exhaustive()
    }
}
