//! The tools of the real binary: requests and answers, exactly as in the resource allocation API.

mod expiry;
mod grants;
mod limits;
mod lists;
mod renewal;
mod seed;
