//! The tests of `cortex-journal`: one suite over both kinds, and the SQLite file: snapshots, damage, foreign writers
//! and leftover files.

mod damage;
mod files;
mod kinds;
mod snapshots;
mod state;
