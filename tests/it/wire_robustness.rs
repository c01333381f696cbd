//! Client errors and unusual input: the server does not end, hang, lose anything or write a line on standard output
//! that is not JSON-RPC.

mod endings;
mod flight;
mod flow;
mod handshake;
mod lines;
mod order;
