//! The kernel's packet filter spoken to directly: nftables transactions, and the table of tracked connections.
//!
//! nfnetlink is netlink with a family byte and, for nftables, batches: all messages between a begin and an end take effect
//! at once or not at all. No process is started and no library is linked for it. Constants are those of the kernel's
//! `linux/netfilter/*.h`, by the same names where they have one.

pub(crate) mod conntrack;
pub(crate) mod expression;
pub(crate) mod message;
pub(crate) mod socket;
pub(crate) mod table;
