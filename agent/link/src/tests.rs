//! Both ends together, over real TLS on the loopback interface.

mod joining;
mod proxy;
mod refusals;
mod sessions;
mod streams;
mod support;
