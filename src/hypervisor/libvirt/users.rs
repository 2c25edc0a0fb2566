//! What depends on an image: volumes backed by it, domains that have it among their disks, instances being made of it.

use std::collections::BTreeMap;

use super::images::Base;
use super::uses;
use super::volumes::Pool;
use crate::hypervisor::{FaultKind, HypervisorError};

/// Users by the copy's volume name.
pub struct Users(BTreeMap<String, Vec<User>>);

struct User {
    name: String,
    /// Whether its disk reads the copy's very file; else it is only about to be made of the image.
    reads: bool,
}

impl Users {
    /// Whether nothing depends on the copy.
    pub fn nobody(&self, copy: &Base) -> bool {
        !self.0.contains_key(&copy.name)
    }

    /// Whether some disk reads the copy's file.
    pub fn is_read(&self, copy: &Base) -> bool {
        self.0.get(&copy.name).is_some_and(|u| u.iter().any(|u| u.reads))
    }

    /// What depends on the copy, in order.
    pub fn names(&self, copy: &Base) -> Vec<String> {
        let users = self.0.get(&copy.name).into_iter().flatten();
        let mut names: Vec<String> = users.map(|u| u.name.clone()).collect();
        names.sort();
        names.dedup();
        names
    }

    fn add(&mut self, copy: &Base, name: &str, reads: bool) {
        self.0.entry(copy.name.clone()).or_default().push(User {
            name: name.to_owned(),
            reads,
        });
    }
}

/// Who depends on each of `copies`, of all that the host has: slow, exact, and only done before something is lost for good.
///
/// # Errors
/// `InUse` if something could not be read, which may depend on any of them.
pub fn of(pool: &Pool<'_, '_>, copies: &[Base]) -> Result<Users, HypervisorError> {
    let mut users = Users(BTreeMap::new());
    if copies.is_empty() {
        return Ok(users);
    }
    let survey = uses::survey(pool.session())?;
    if let Some(unread) = survey.uses.unread.first() {
        let text = format!("{unread} could not be read, and may use any image");
        return Err(HypervisorError::new(
            FaultKind::InUse,
            "looking for what uses images",
            text,
        ));
    }
    for copy in copies {
        for user in survey.uses.files.get(&copy.name).into_iter().flatten() {
            users.add(copy, &user.name, true);
        }
        for (name, digest) in &survey.making {
            if digest.as_ref().is_none_or(|digest| *digest == copy.digest) {
                users.add(copy, name, false);
            }
        }
    }
    Ok(users)
}
