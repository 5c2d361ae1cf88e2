//! What a board does with its card at each start: which disk it is, whether its seed may be used, and what follows from it. Pure but for
//! [`disk`], which looks into sysfs; `minidc boot` does the rest.

pub mod disk;
mod verdict;
mod wireless;

pub use verdict::{Cluster, Known, Member, Offer, TokenFacts, judge};
pub use wireless::supplicant;
