//! What is asked: the same names for all servers, and the zones that hold them.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// Names of each kind: as many Services as a large rack has.
pub(crate) const NAMES: usize = 1_000;
/// Names that are not there: more than a cache of negative answers should keep.
const MISSING: usize = 50_000;
/// A user's zone.
pub(crate) const USER_ZONE: &str = "example.org";
/// Names of this domain are answered by a resolver outside.
const OUTSIDE: &str = "example.net";

/// Queries of one kind.
pub(crate) struct Set {
    /// What they are.
    pub(crate) title: &'static str,
    /// For dnsperf: a name and a type on each line.
    pub(crate) file: PathBuf,
}

/// All of them.
pub(crate) struct Sets {
    /// In the order of the table.
    pub(crate) all: [Set; 4],
}

impl Sets {
    /// Writes queries and zones into the directory: `cluster.zone` (the same names as the Services that minidc is told of)
    /// and `user.zone`.
    pub(crate) fn write(directory: &Path) -> Result<Self> {
        let write = |name: &str, text: &str| -> Result<PathBuf> {
            let path = directory.join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            Ok(path)
        };
        let head = "$TTL 5\n@ SOA ns.dns hostmaster 1 7200 1800 86400 5\n@ NS ns.dns\nns.dns A 100.65.0.10\n";
        let mut cluster = head.to_owned();
        let mut user = head.replace("$TTL 5", "$TTL 300");
        for number in 0..NAMES {
            writeln!(cluster, "{} A {}", service(number), address(number))?;
            writeln!(user, "host-{number} A 192.0.2.{}", number % 256)?;
        }
        write("cluster.zone", &cluster)?;
        write("user.zone", &user)?;
        let queries = |count: usize, name: &dyn Fn(usize) -> String| {
            // a fixed order that jumps about, as the names of a prime stride do
            (0..count).fold(String::new(), |mut text, number| {
                text.push_str(&name(number * 7_919 % count));
                text.push_str(" A\n");
                text
            })
        };
        let file = |name: &str, count, of: &dyn Fn(usize) -> String| write(name, &queries(count, of));
        Ok(Self {
            all: [
                Set {
                    title: "cluster",
                    file: file("cluster", NAMES, &|n| format!("{}.cluster.local", service(n)))?,
                },
                Set {
                    title: "user zone",
                    file: file("user", NAMES, &|n| format!("host-{n}.{USER_ZONE}"))?,
                },
                Set {
                    title: "outside, cached",
                    file: file("outside", NAMES, &|n| format!("www-{n}.{OUTSIDE}"))?,
                },
                Set {
                    title: "NXDOMAIN",
                    file: file("missing", MISSING, &|n| format!("no-{n}.default.svc.cluster.local"))?,
                },
            ],
        })
    }
}

/// Name of a Service, without the cluster's domain.
fn service(number: usize) -> String {
    format!("service-{number}.{}.svc", namespace(number))
}

/// Namespace of a Service.
pub(crate) fn namespace(number: usize) -> &'static str {
    ["default", "shop", "monitoring", "team-blue"][number % 4]
}

/// Address of a Service.
pub(crate) fn address(number: usize) -> String {
    format!("100.65.{}.{}", 1 + number / 250, number % 250 + 1)
}
