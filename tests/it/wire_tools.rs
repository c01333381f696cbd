//! The tools over the real binary: what is asked, and what is answered, to the letter of the resource allocation API.

mod expiry;
mod grants;
mod limits;
mod lists;
mod renewal;
mod seed;
