//! The journal: one suite over both kinds, and what only the SQLite file has: snapshots, damage, strangers, leftovers.

#[path = "core_simulation/draws.rs"]
#[expect(dead_code, reason = "the simulation of the lease machine uses all of it")]
mod draws;
#[path = "support/history.rs"]
mod history;
#[path = "core_simulation/model.rs"]
#[expect(dead_code, reason = "the simulation of the lease machine uses all of it")]
mod model;

#[path = "journal/damage.rs"]
mod damage;
#[path = "journal/files.rs"]
mod files;
#[path = "journal/kinds.rs"]
mod kinds;
#[path = "journal/snapshots.rs"]
mod snapshots;
#[path = "journal/state.rs"]
mod state;
