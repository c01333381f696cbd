//! The tools that list entries in pages.

use super::server::Server;
use serde_json::Value;

/// A tool, and the keys of its entries and of their ids.
pub(crate) struct ListTool {
    pub(crate) name: &'static str,
    pub(crate) entries: &'static str,
    pub(crate) id: &'static str,
}

impl ListTool {
    /// Returns the ids on a page.
    pub(crate) fn ids(&self, page: &Value) -> Vec<String> {
        let entries = page[self.entries].as_array().expect("a list");
        assert_eq!(page["count"], entries.len());
        entries.iter().map(|entry| entry[self.id].as_str().expect("an id").to_owned()).collect()
    }

    /// Returns all matching ids, read page by page.
    pub(crate) fn read_pages(&self, server: &mut Server, filter: &Value, limit: usize) -> Vec<String> {
        let mut read = Vec::new();
        let mut arguments = filter.clone();
        arguments["limit"] = limit.into();
        loop {
            let page = server.answer(self.name, &arguments);
            let listed = self.ids(&page);
            let is_full = listed.len() == limit;
            assert!(listed.len() <= limit, "{page}");
            read.extend(listed);
            if page["next_cursor"].is_null() {
                assert_eq!(page["total"], read.len(), "{page}");
                return read;
            }
            assert!(is_full, "a page that is not the last is full: {page}");
            arguments["cursor"] = page["next_cursor"].clone();
        }
    }
}
