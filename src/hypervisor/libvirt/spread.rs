//! Looking at many domains of one host: each is a call or two, one after the other on a connection. On a host with many of
//! them, or far away, that takes longer than anybody waits, so their number decides how many connections share them.

use std::collections::HashSet;
use std::thread;

use uuid::Uuid;
use virt::domain::Domain;

use super::connection::{Line, Session};
use super::observe::all;
use crate::hypervisor::HypervisorError;

/// So many domains are looked at over one connection before another is worth opening: over ssh that takes about as long as
/// some dozens of calls.
const PER_CONNECTION: usize = 50;

/// Has `look` see each of `domains`, which were listed in `session`; in the order of the list as long as one connection
/// does. What has gone meanwhile may be left out.
pub fn spread<T: Send>(
    line: &Line,
    session: &Session<'_>,
    domains: &[Domain],
    look: impl Fn(&Session<'_>, &Domain) -> Result<T, HypervisorError> + Sync,
) -> Result<Vec<T>, HypervisorError> {
    let shares = domains.len().div_ceil(PER_CONNECTION).clamp(1, line.width());
    let (own, others) = domains.split_at(domains.len().div_ceil(shares));
    thread::scope(|scope| {
        let helpers: Vec<_> = others
            .chunks(own.len().max(1))
            .map(|share| {
                // A handle belongs to the connection that it was listed on.
                let share: HashSet<Uuid> = share.iter().filter_map(|d| d.uuid().ok()).collect();
                let look = &look;
                scope.spawn(move || {
                    let session = line.session(session.pulse())?;
                    let mut domains = all(&session)?;
                    domains.retain(|d| d.uuid().is_ok_and(|uuid| share.contains(&uuid)));
                    domains.iter().map(|domain| look(&session, domain)).collect()
                })
            })
            .collect();
        let mut seen = own
            .iter()
            .map(|domain| look(session, domain))
            .collect::<Result<Vec<T>, HypervisorError>>()?;
        for helper in helpers {
            let share: Result<Vec<T>, HypervisorError> = helper
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            seen.extend(share?);
        }
        Ok(seen)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::hypervisor::meter::{Hears, Meter};
    use crate::hypervisor::{FaultKind, Pulse};

    /// Counts the connections that are opened.
    #[derive(Clone, Default)]
    struct Opened(Arc<AtomicUsize>);

    impl Hears for Opened {
        fn ended(&self, _: &str, kind: &'static str, _: Duration) {
            if kind == "connect" {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        fn failed(&self, _: &str, _: &'static str) {}
    }

    /// Looks at so many domains, made for it, over a line so wide: over how many connections.
    fn connections_for(domains: usize, width: u32) -> usize {
        let (meter, opened, pulse) = (Meter::default(), Opened::default(), Pulse::silent());
        meter.connect(Box::new(opened.clone()));
        let line = Line::new("test:///default", Duration::from_secs(5), width).measured(meter.of("kvm1"));
        let session = line.session(&pulse).unwrap();
        // Tests side by side share the driver's domains.
        let mut made: Vec<String> = (0..domains)
            .map(|n| format!("spread-{domains}-{width}-{n}"))
            .collect();
        let domains: Vec<Domain> = (made.iter())
            .map(|name| {
                let xml = format!("<domain type='test'><name>{name}</name><memory>1024</memory><os><type>hvm</type></os></domain>");
                session.call("defining domain", |c| c.define_domain_xml(&xml)).ok().unwrap()
            })
            .collect();
        let name = |_: &Session<'_>, domain: &Domain| Ok(domain.name().unwrap());
        let mut seen = spread(&line, &session, &domains, name).unwrap();
        seen.sort();
        made.sort();
        assert_eq!(seen, made, "each is seen once");
        for domain in domains {
            session
                .call("undefining domain", |_| domain.undefine())
                .ok()
                .unwrap();
        }
        opened.0.load(Ordering::Relaxed)
    }

    #[test]
    fn few_domains_are_looked_at_over_one_connection_and_many_over_as_many_as_the_line_has() {
        assert_eq!(connections_for(0, 4), 1);
        assert_eq!(connections_for(PER_CONNECTION, 4), 1);
        assert_eq!(connections_for(PER_CONNECTION + 1, 4), 2);
        // One that is done early leaves its connection to the next.
        assert!((2..=3).contains(&connections_for(9 * PER_CONNECTION, 3)));
        assert_eq!(connections_for(2 * PER_CONNECTION, 1), 1);
    }

    #[test]
    fn what_one_connection_fails_at_fails_the_whole() {
        let pulse = Pulse::silent();
        let line = Line::new("test:///default", Duration::from_secs(5), 2);
        let session = line.session(&pulse).unwrap();
        // Others of this process define domains beside this one, and take them away.
        let mut domains = all(&session).unwrap();
        domains.retain(|domain| domain.name().is_ok_and(|name| name == "test"));
        let many: Vec<Domain> = domains.iter().cycle().take(PER_CONNECTION + 1).cloned().collect();
        let here = thread::current().id();
        let fails_elsewhere = |_: &Session<'_>, _: &Domain| match thread::current().id() == here {
            true => Ok(()),
            false => Err(HypervisorError::new(FaultKind::Other, "looking", "no")),
        };
        assert!(spread(&line, &session, &many[..1], fails_elsewhere).is_ok());
        assert!(spread(&line, &session, &many, fails_elsewhere).is_err());
    }
}
