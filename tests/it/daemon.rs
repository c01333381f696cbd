//! One allocator for several sessions, from outside: the real binary with `--daemon always`, each test with a runtime
//! directory of its own. No daemon outlives its test.

mod endings;
mod home;
mod losses;
mod places;
mod queue;
mod refusals;
mod servers;
mod sharing;
