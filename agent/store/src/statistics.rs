//! Counters for the benches and `minidc status`.

/// What a store has done since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Transactions that changed something durable.
    pub commits: u64,
    /// Disk writes that were waited for (`fdatasync` and `fsync`).
    pub syncs: u64,
    /// Bytes handed to the file system, including room made in advance and rewrites.
    pub bytes_written: u64,
    /// Rewrites of the log.
    pub compactions: u64,
    /// Size of the log file in bytes, with the room made in advance.
    pub file_bytes: u64,
    /// Bytes of the log file in use.
    pub log_bytes: u64,
    /// Bytes of the log file that the last rewrite left: what was live then.
    pub base_bytes: u64,
}
