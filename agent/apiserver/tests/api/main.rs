//! The API server from the outside, by statement.

#[cfg(test)]
mod archive;
#[cfg(test)]
mod clients;
#[cfg(test)]
mod feed;
#[cfg(test)]
mod lists;
#[cfg(test)]
mod nodes;
mod services;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod support;
#[cfg(test)]
mod verbs;
#[cfg(test)]
mod watch;
