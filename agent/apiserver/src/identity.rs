//! Who a request comes from.

/// The user behind a request.
///
/// The TLS listener puts it into the request's extensions after it has verified the client certificate: `user` is the
/// subject's common name, `groups` its organizations. In-process callers get theirs from
/// [`ApiServer::router_as`](crate::ApiServer::router_as). It is never read from a header, with one exception that
/// Kubernetes has too: a member of `system:masters` may act as somebody else (`kubectl --as`). A request without this
/// extension is `system:anonymous`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Name of the user, for example `minidc-admin` or `system:node:pi-1`.
    pub user: String,
    /// Groups of the user as proven by the certificate; `system:authenticated` is implied and need not be listed.
    pub groups: Vec<String>,
}

/// Members may do everything.
pub(crate) const MASTERS: &str = "system:masters";
/// The server itself, where it writes what nobody asked for.
pub(crate) const SERVER: &str = "system:apiserver";
/// Members are nodes, when their name says so too.
pub(crate) const NODES: &str = "system:nodes";
/// Who proved nothing.
pub(crate) const ANONYMOUS: &str = "system:anonymous";

impl Identity {
    /// A user with groups.
    pub fn new(user: impl Into<String>, groups: &[&str]) -> Self {
        Self {
            user: user.into(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        }
    }

    /// `system:anonymous` in `system:unauthenticated`.
    pub fn anonymous() -> Self {
        Self::new(ANONYMOUS, &["system:unauthenticated"])
    }

    /// True when nothing was proven.
    pub(crate) fn is_anonymous(&self) -> bool {
        self.user == ANONYMOUS
    }

    /// True for members of `system:masters`.
    pub(crate) fn is_master(&self) -> bool {
        self.is_in(MASTERS)
    }

    /// The node's name, when this is a node: both name and group must say so.
    pub(crate) fn node(&self) -> Option<&str> {
        let name = self.user.strip_prefix("system:node:")?;
        (!name.is_empty() && self.is_in(NODES)).then_some(name)
    }

    fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|member_of| member_of == group)
    }
}
