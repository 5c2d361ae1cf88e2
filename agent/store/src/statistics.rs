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
    /// Size of the log file in bytes.
    pub file_bytes: u64,
    /// Bytes of the log that recovery would still need, roughly.
    pub live_bytes: u64,
}
