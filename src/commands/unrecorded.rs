//! What the hosts of a definition have of a set of which the store has no record: looked at before anybody says that there is
//! no such set, for a store that was lost, or is the wrong one, knows of none.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use crate::commands::Context;
use crate::error::{Error, Exit};
use crate::hypervisor::Watch;
use crate::inventory::{Instance, Inventory, View};
use crate::names::{Label, StoreId, instance_name};
use crate::observe::observe;
use crate::record::Record;
use crate::scaleset::{Host, ScaleSet};
use crate::ui::words::{count, list, moment};

/// Instances of one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Of {
    /// How many.
    pub count: usize,
    /// When the last of them was made.
    pub last_made: Timestamp,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unrecorded {
    set: Label,
    store: StoreId,
    /// By the store that manages them.
    of: BTreeMap<StoreId, Of>,
    /// Those that were given up when the set was ended: the store remembers them.
    given_up: usize,
    /// Hosts that could not be seen.
    unseen: Vec<Label>,
}

/// Looks at the hosts of a definition. `left` is what the store remembers of a set of that name
/// ([`crate::store::Store::abandoned`]).
pub fn look_for(
    ctx: &Context<'_>,
    set: &ScaleSet,
    store: StoreId,
    left: Option<&Record>,
) -> (Unrecorded, Inventory) {
    let hosts: Vec<Host> = set.hosts().map(|(_, h)| h.clone()).collect();
    let watch = Arc::new(Watch {
        set: set.name.clone(),
        stores: left.map_or_else(|| vec![store], Record::stores),
        uuids: left.map_or_else(HashSet::new, Record::uuids),
    });
    let inventory = observe(&*ctx.world.hosts, &hosts, &set.limits, &watch);
    (Unrecorded::of(&set.name, store, &inventory, left), inventory)
}

impl Unrecorded {
    /// Sorts out what was seen of `set` by whoever works with `store`.
    pub fn of(set: &Label, store: StoreId, inventory: &Inventory, left: Option<&Record>) -> Self {
        let mut of: BTreeMap<StoreId, Of> = BTreeMap::new();
        let mut given_up = 0;
        // What somebody keeps under another name is no instance.
        let are_named = |i: &&Instance| i.name == instance_name(set, i.id);
        for instance in inventory.instances().filter(are_named) {
            if instance.meta.store == store && left.is_some_and(|r| r.gave_up(instance.id, instance.uuid)) {
                given_up += 1;
                continue;
            }
            let made = instance.meta.created_at;
            let entry = of.entry(instance.meta.store).or_insert(Of {
                count: 0,
                last_made: made,
            });
            entry.count += 1;
            entry.last_made = entry.last_made.max(made);
        }
        let unseen = (inventory.hosts.iter())
            .filter(|h| matches!(h.view, View::Unseen { .. }))
            .map(|h| h.name.clone())
            .collect();
        Self {
            set: set.clone(),
            store,
            of,
            given_up,
            unseen,
        }
    }

    /// That instances are there again which were given up when the set was ended, if any is.
    pub fn back(&self) -> Option<String> {
        let are = if self.given_up == 1 { "is" } else { "are" };
        (self.given_up > 0).then(|| {
            format!(
                "{} that {are} there again {} given up when it was deleted",
                count(self.given_up, "instance"),
                if self.given_up == 1 { "was" } else { "were" }
            )
        })
    }

    /// Whether no instance was found beside those that were given up.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// Hosts that may have some and could not be seen.
    pub fn unseen(&self) -> &[Label] {
        &self.unseen
    }

    /// Whether any of them is another store's.
    pub fn is_anothers(&self) -> bool {
        self.of.keys().any(|store| *store != self.store)
    }

    /// What to do about it.
    pub fn way_out(&self) -> &'static str {
        if self.is_anothers() {
            "run the command with that store (VMSS_STATE, or [state] path); if it is lost for good, vmss state rebuild takes them \
             over, and asks"
        } else {
            "this store has lost its record of them: vmss state rebuild makes it again"
        }
    }

    /// As an error: nothing can be done before a person has said whose they are.
    pub fn error(&self) -> Error {
        Error::message(Exit::Blocked, self.to_string())
            .hint(self.way_out())
            .hint("to make another set, give it another name")
    }
}

impl fmt::Display for Unrecorded {
    /// "the store has no record of web, and its hosts have 6 instances of it, managed from another store (...), the last made at
    /// ...".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: usize = self.of.values().map(|of| of.count).sum();
        let parts: Vec<String> = (self.of.iter())
            .map(|(store, of)| {
                let whose = if *store == self.store {
                    format!("this store ({store}), which has lost its record")
                } else {
                    format!("another store ({store})")
                };
                let some = match self.of.len() {
                    1 => String::new(),
                    _ => format!("{} ", of.count),
                };
                format!(
                    "{some}managed from {whose}, the last made at {}",
                    moment(of.last_made)
                )
            })
            .collect();
        write!(
            f,
            "the hosts have {} of a set named {}, of which this store has no record: {}",
            count(all, "instance"),
            self.set,
            list(&parts, 4)
        )
    }
}
