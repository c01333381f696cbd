//! Children as real processes: how they are started, what they see, and that nothing of them is ever left behind.

// They look into /proc, and count on what only this system has.
mod endings;
mod guardian;
mod life;
mod limits;
mod orphans;
mod processes;
