//! Metrics of repair.

use super::family::{Families, PerSet};
use super::{Area, View, count, flag};

/// The metrics.
pub struct Repair {
    suspended: PerSet,
    under_way: PerSet,
}

impl Area for Repair {
    fn register(families: &mut Families) -> Self {
        Self {
            suspended: families.gauge(
                "vmss_repair_suspended",
                "Whether repair has suspended itself until somebody resumes it",
            ),
            under_way: families.gauge(
                "vmss_repairs_under_way",
                "Repairs that were begun and whose end is not known yet",
            ),
        }
    }

    fn take(&self, view: &View<'_>) {
        let repair = &view.record.repair;
        self.suspended.put_one(view.set, flag(repair.suspended.is_some()));
        self.under_way.put_one(view.set, count(repair.under_way.len()));
    }
}
