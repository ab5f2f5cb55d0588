//! What the server remembers: keys, the typed cache, and how decisions become transactions.

pub mod cache;
pub mod keys;
pub mod people;
pub mod repo;
pub mod table;
pub mod view;
