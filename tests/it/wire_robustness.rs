//! What a client may do wrong, or just do, without the server ending, hanging, losing anything or writing a line on standard output
//! that is not JSON-RPC.

mod endings;
mod flight;
mod flow;
mod handshake;
mod lines;
mod order;
