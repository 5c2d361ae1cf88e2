//! The certificate that the control plane shows, exchanged under running connections.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::crypto::ring::sign::any_supported_type;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::ClusterIdentity;
use crate::Error;

/// The serving certificate for the present names and addresses. Kept in memory only: it is made anew at each start.
pub struct ServingCertificate {
    identity: Arc<ClusterIdentity>,
    current: RwLock<Current>,
}

struct Current {
    names: BTreeSet<String>,
    key: Arc<CertifiedKey>,
}

impl ServingCertificate {
    /// Issues a certificate for the fixed names of the cluster and `names` (host names and addresses as text).
    pub fn new(identity: Arc<ClusterIdentity>, names: &[String]) -> Result<Self, Error> {
        let current = issue(&identity, all_names(&identity, names))?;
        Ok(Self {
            identity,
            current: RwLock::new(current),
        })
    }

    /// Issues another one if `names` differ from the present ones; connections made from now on see it.
    /// Returns whether it did.
    pub fn set_names(&self, names: &[String]) -> Result<bool, Error> {
        let names = all_names(&self.identity, names);
        if self.current.read().unwrap_or_else(PoisonError::into_inner).names == names {
            return Ok(false);
        }
        let next = issue(&self.identity, names)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(true)
    }

    /// The names on it.
    pub fn names(&self) -> Vec<String> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .names
            .iter()
            .cloned()
            .collect()
    }
}

fn all_names(identity: &ClusterIdentity, names: &[String]) -> BTreeSet<String> {
    identity
        .fixed_names()
        .into_iter()
        .chain(names.iter().cloned())
        .collect()
}

fn issue(identity: &ClusterIdentity, names: BTreeSet<String>) -> Result<Current, Error> {
    let list: Vec<_> = names.iter().cloned().collect();
    let (certificate, key) = identity.issue_server(&list)?;
    let key = any_supported_type(&key).map_err(|source| Error::Tls {
        what: "the serving key",
        source,
    })?;
    let key = Arc::new(CertifiedKey::new(vec![certificate, identity.ca().clone()], key));
    Ok(Current { names, key })
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(
            &self.current.read().unwrap_or_else(PoisonError::into_inner).key,
        ))
    }
}

impl fmt::Debug for ServingCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServingCertificate")
            .field("names", &self.names())
            .finish_non_exhaustive()
    }
}
