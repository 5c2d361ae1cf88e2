//! The API server from the outside, by statement.

mod support;
mod verbs;
mod watch;
