//! Who manages whom: adoption and release of objects by selector and owner reference.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::Error;
use crate::cache::{Cache, Change};
use crate::objects::{Key, Metadata, Owner, Resource, Stored};
use crate::queue::Queue;
use crate::requests::{Reply, Requests};
use crate::selector::Selector;

/// What a controller does about an object that may be one of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    Mine,
    /// It matches and nobody manages it.
    Adopt,
    /// It is managed by this controller but does not match any more.
    Release,
    /// Of no concern.
    Other,
}

/// As `controller.BaseControllerRefManager.ClaimObject` decides.
pub(crate) fn claim(owner: &Metadata, matches: bool, child: &Metadata) -> Claim {
    match child.controller() {
        Some(controller) if controller.uid != owner.uid => Claim::Other,
        Some(_) if matches => Claim::Mine,
        Some(_) if owner.terminating() => Claim::Other,
        Some(_) => Claim::Release,
        None if owner.terminating() || child.terminating() || !matches => Claim::Other,
        None => Claim::Adopt,
    }
}

/// Key of the controller of that kind which manages an object.
pub(crate) fn managed_by(resource: &Resource, child: &Metadata) -> Option<Key> {
    let owner = child.controller()?;
    (*owner.kind == *resource.kind && owner.group() == resource.group)
        .then(|| Key::new(&child.key.namespace, &owner.name))
}

/// Queues who manages a child that changes; of a child that nobody manages, all that might adopt it.
pub(crate) fn wake_owners<C: Stored, O: Stored>(
    children: &Cache<C>,
    owners: &Arc<Cache<O>>,
    resource: Resource,
    queue: &Arc<Queue<Key>>,
    selector: fn(&O) -> Option<&Selector>,
) {
    let owners = Arc::clone(owners);
    let queue = Arc::clone(queue);
    children.on_change(move |change| {
        let wake = |child: &Metadata| match child.controller() {
            Some(_) => {
                if let Some(key) = managed_by(&resource, child) {
                    queue.add(key);
                }
            }
            None if !child.terminating() => {
                for owner in owners.within(&child.key.namespace, |owner| {
                    selector(owner).is_some_and(|selector| !selector.is_empty() && selector.matches(child))
                }) {
                    queue.add(owner.metadata().key.clone());
                }
            }
            None => {}
        };
        if let Change::Put {
            previous: Some(previous),
            current,
        } = change
            && previous.metadata().owners != current.metadata().owners
        {
            wake(previous.metadata());
        }
        wake(change.object().metadata());
    });
}

fn patch(child: &Metadata, owners: &[Owner]) -> Value {
    json!({"metadata": {
        "uid": child.uid,
        "resourceVersion": child.revision.to_string(),
        "ownerReferences": owners,
    }})
}

/// Makes `owner` the controller of a child; refused if the owner is, by the API's own word, another or being deleted.
pub(crate) async fn adopt(
    requests: &Requests,
    (owner_resource, owner): (&Resource, &Metadata),
    (child_resource, child): (&Resource, &Metadata),
) -> Result<(), Error> {
    let live: Option<Reply> = requests.get(&owner_resource.path_of(&owner.key)).await?;
    let alive = live.is_some_and(|live| live.metadata.uid == *owner.uid && live.metadata.deletion_timestamp.is_none());
    if !alive {
        return Err(Error::OwnerGone {
            kind: owner_resource.kind.to_string(),
            owner: owner.key.to_string(),
        });
    }
    let mut owners = child.owners.to_vec();
    owners.push(Owner::controller(owner_resource, owner));
    requests
        .merge(&child_resource.path_of(&child.key), &patch(child, &owners))
        .await?;
    Ok(())
}

/// Ends the management of a child that does not match any more.
pub(crate) async fn release(
    requests: &Requests,
    owner: &Metadata,
    (child_resource, child): (&Resource, &Metadata),
) -> Result<(), Error> {
    let owners: Vec<Owner> = child
        .owners
        .iter()
        .filter(|reference| reference.uid != owner.uid)
        .cloned()
        .collect();
    match requests
        .merge(&child_resource.path_of(&child.key), &patch(child, &owners))
        .await
    {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}
