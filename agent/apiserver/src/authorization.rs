//! Who may do what: administrators everything, nodes what their pods need, each controller its own rules, everybody
//! proven discovery, and anybody the health of the server.

use minidc_api::selector::FieldSelector;
use minidc_api::status::{Attempt, Status};
use minidc_store::Store;

use crate::error::Failure;
use crate::identity::Identity;

mod node;
mod users;

/// A request for a resource, as far as authorization looks at it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributes<'a> {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub(crate) verb: &'a str,
    /// API group, empty for core.
    pub(crate) group: &'a str,
    /// Plural name.
    pub(crate) resource: &'a str,
    /// Subresource, empty for none.
    pub(crate) subresource: &'a str,
    /// Namespace, empty at the cluster scope.
    pub(crate) namespace: &'a str,
    /// Name of the object, empty for many.
    pub(crate) name: &'a str,
    /// Field selector of a list or watch.
    pub(crate) fields: &'a FieldSelector,
}

/// What an authorizer says.
pub(crate) enum Decision {
    /// Go on.
    Allowed,
    /// No, and perhaps why.
    Denied(Option<String>),
}

/// Decides about a resource.
pub(crate) fn resource(store: &Store, identity: &Identity, attributes: &Attributes<'_>) -> Result<(), Failure> {
    if identity.is_master() {
        return Ok(());
    }
    let decision = match identity.node() {
        Some(name) => node::decide(store, name, attributes),
        None if users::may(&identity.user, attributes) => Decision::Allowed,
        None => Decision::Denied(None),
    };
    let Decision::Denied(reason) = decision else {
        return Ok(());
    };
    let Attributes {
        verb,
        group,
        resource,
        subresource,
        namespace,
        name,
        ..
    } = *attributes;
    let attempt = Attempt {
        user: &identity.user,
        verb,
        group,
        resource,
        subresource,
        namespace,
        name,
    };
    let mut status = Status::not_allowed(&attempt);
    if let Some(reason) = reason {
        status.message.push_str(": ");
        status.message.push_str(&reason);
    }
    Err(status.into())
}

/// Decides about a path that is no resource.
pub(crate) fn path(identity: &Identity, verb: &str, path: &str) -> Result<(), Failure> {
    let root = path.trim_start_matches('/').split('/').next().unwrap_or("");
    let reading = verb == "get" || verb == "head";
    let open = match root {
        "healthz" | "livez" | "readyz" | "version" => reading,
        "api" | "apis" | "openapi" => reading && !identity.is_anonymous(),
        _ => false,
    };
    if open || identity.is_master() {
        return Ok(());
    }
    Err(Status::path_not_allowed(&identity.user, verb, path).into())
}

/// Lets administrators act as somebody else; everybody else gets Kubernetes' refusal.
pub(crate) fn impersonate(identity: &Identity, user: &str, groups: &[&str]) -> Result<Identity, Failure> {
    if identity.is_master() {
        return Ok(Identity::new(user, groups));
    }
    let attempt = Attempt {
        user: &identity.user,
        verb: "impersonate",
        group: "",
        resource: "users",
        subresource: "",
        namespace: "",
        name: user,
    };
    Err(Status::not_allowed(&attempt).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_unproven_sees_more_than_health_and_version() {
        let anonymous = Identity::anonymous();
        for open in ["/healthz", "/livez", "/readyz/ping", "/version"] {
            path(&anonymous, "get", open).unwrap();
        }
        for closed in ["/api", "/apis/apps", "/openapi/v3", "/metrics", "/"] {
            let failure = path(&anonymous, "get", closed).unwrap_err();
            assert_eq!(
                failure.to_string(),
                format!("forbidden: User \"system:anonymous\" cannot get path {closed:?}")
            );
        }
        path(&Identity::new("u", &[]), "get", "/apis").unwrap();
        path(&Identity::new("u", &[]), "get", "/metrics").unwrap_err();
        path(&Identity::new("u", &["system:masters"]), "get", "/metrics").unwrap();
    }

    #[test]
    fn only_administrators_act_as_others() {
        let admin = Identity::new("minidc-admin", &["system:masters"]);
        assert_eq!(
            impersonate(&admin, "bob", &["dev"]).unwrap(),
            Identity::new("bob", &["dev"])
        );
        let failure = impersonate(&Identity::new("bob", &[]), "minidc-admin", &["system:masters"]).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "users \"minidc-admin\" is forbidden: User \"bob\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope"
        );
    }
}
