//! What the tests of several crates share: the naive reference of the lease machine and random commands for it, histories,
//! seeds of simulations, checks of schemas, traces of demand, and the table of benches.

pub mod history;
pub mod lease_draws;
pub mod model;
pub mod scenarios;
pub mod schema;
pub mod seeds;
pub mod setting;
pub mod table;
