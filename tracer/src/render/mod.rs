//! The report for people. Width and colour are arguments: nothing here asks a terminal, and the same report gives the same text.

mod critical_path;
mod database;
mod io;
mod layout;
mod ledger;
mod mapping;
mod memory;
mod network;
mod paging;
mod queues;
mod stacks;
mod steps;
pub mod text;

#[cfg(test)]
mod tests;
