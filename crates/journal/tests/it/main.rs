//! The journal: one suite over both kinds, and what only the SQLite file has: snapshots, damage, strangers, leftovers.

mod damage;
mod files;
mod kinds;
mod snapshots;
mod state;
