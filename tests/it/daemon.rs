//! Several sessions that share one allocator, from outside: the real binary with `--daemon always`, each test with its
//! own runtime directory. No daemon outlives its test.

mod endings;
mod home;
mod losses;
mod places;
mod queue;
mod refusals;
mod servers;
mod sharing;
