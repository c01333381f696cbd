//! Children as real processes: how they are started, what they inherit, and that none of their processes is ever left.

// The tests read /proc and use features of Linux.
mod endings;
mod guardian;
mod life;
mod limits;
mod orphans;
mod processes;
