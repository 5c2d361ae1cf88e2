//! Takes away all that this crate made on its node, for when minidc is uninstalled from it.

use std::{fs, io, path::Path};

use crate::{
    Error,
    conflist::{self, BRIDGE},
    netlink::Netlink,
    routes::Action,
    services,
};

/// Removes our routes, the address of DNS, the tunnel, the pod bridge, the table of Services, the CNI configuration at
/// `conflist` and the addresses that CNI noted. The kernel's switches stay as they are: others may need them by now.
///
/// To be called when neither pods nor a [`crate::Network`] run here, inside a tokio runtime. Fine to repeat.
///
/// # Errors
/// The first thing that could not be removed; the rest was tried all the same.
pub async fn clear(conflist: &Path) -> Result<(), Error> {
    let netlink = Netlink::open()?;
    let present = netlink.observe().await?;
    let mut actions: Vec<Action> = present.routes.into_iter().map(Action::Delete).collect();
    let own = present.addresses.into_iter().filter(|address| address.own);
    actions.extend(own.map(Action::RemoveAddress));
    if present.tunnel.is_some() {
        actions.push(Action::RemoveTunnel);
    }
    let mut problem = None;
    for action in actions {
        match netlink.apply(&action).await {
            Err(error) if error.is_not_found() => {}
            result => problem = problem.or(result.err()),
        }
    }
    if present.bridge.is_some() {
        problem = problem.or(netlink.remove_link(BRIDGE).await.err());
    }
    problem = problem.or(services::remove().err());
    for path in [conflist, Path::new(conflist::LEASES)] {
        problem = problem.or(remove(path).err());
    }
    problem.map_or(Ok(()), Err)
}

fn remove(path: &Path) -> Result<(), Error> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::File {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}
