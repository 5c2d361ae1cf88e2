//! What is said: the table of kinds, their schemas, and the shapes that travel. No I/O, no async runtime.

pub mod decode;
pub mod defaults;
pub mod discovery;
pub mod feed;
pub mod kinds;
pub mod metrics;
pub mod openapi;
pub mod patch;
pub mod quantity;
pub mod schema;
pub mod selector;
pub mod status;
pub mod streams;
pub mod table;
pub mod unsupported;
pub mod validate;
