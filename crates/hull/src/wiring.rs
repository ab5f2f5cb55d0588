//! Puts the parts together into a process.
