//! What can be measured of a set, and under which name.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Something that is measured of every instance, or of the set as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// What hosts measure of each instance.
    Host(HostMetric),
    /// What each guest says of itself, through its agent.
    Guest(GuestMetric),
    /// What load balancers count.
    Balancer(BalancerMetric),
    /// What somebody else knows.
    External(External),
}

macro_rules! names {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum $name { $($(#[$variant_meta])* $variant,)* }

        impl $name {
            /// Every one of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

names! {
    /// What a host measures of an instance. Rates are per second, over the time since the last measurement.
    HostMetric {
        /// CPU time it took, in per cent of its virtual CPUs.
        Cpu = "host.cpu",
        /// Memory of the host that it takes, in per cent of its own.
        Memory = "host.memory",
        /// Bytes read from its disks, per second.
        DiskReadBytes = "host.disk.read_bytes",
        /// Bytes written to its disks, per second.
        DiskWriteBytes = "host.disk.write_bytes",
        /// Reads from its disks, per second.
        DiskReads = "host.disk.reads",
        /// Writes to its disks, per second.
        DiskWrites = "host.disk.writes",
        /// Bytes its cards received, per second.
        NetworkReceiveBytes = "host.network.receive_bytes",
        /// Bytes its cards sent, per second.
        NetworkSendBytes = "host.network.send_bytes",
    }
}

names! {
    /// What a guest says of itself.
    GuestMetric {
        /// CPU time that was not idle, in per cent of its CPUs.
        Cpu = "guest.cpu",
        /// Memory that is not available to programs, in per cent.
        Memory = "guest.memory",
        /// Load average of the last minute, for each CPU.
        Load = "guest.load",
        /// How full its root file system is, in per cent.
        Disk = "guest.disk",
    }
}

names! {
    /// What load balancers count.
    BalancerMetric {
        /// Connections of an instance now.
        Connections = "lb.connections",
        /// Requests (mode http) or sessions (mode tcp) of an instance, per second.
        Requests = "lb.requests",
        /// Time until an instance's answer begins, in milliseconds; the average of its last 1,024 requests.
        Latency = "lb.latency",
        /// Requests that wait for an instance.
        Queue = "lb.queue",
    }
}

/// A number from somebody else.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct External {
    /// What it is called: its name in `[autoscale.metrics]`, or what is asked.
    pub name: String,
    /// Who is asked, and for what.
    pub source: Source,
    /// What the number is about.
    pub of: Of,
    /// A file with a bearer token, absolute; read when it is used.
    pub token_file: Option<PathBuf>,
}

/// Who is asked for an external metric.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// A Prometheus server, or anything that has its API.
    Prometheus {
        /// Where it is, without the path of the API.
        url: String,
        /// The query; its result is one number.
        query: String,
    },
    /// An HTTP endpoint that answers with JSON.
    Http {
        /// What is fetched.
        url: String,
        /// Where in the document the number is (RFC 6901); empty: the document is the number.
        pointer: String,
    },
}

/// What an external number is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Of {
    /// The usual instance: an average already.
    Instance,
    /// The whole set: shared by its instances.
    Set,
}

impl Metric {
    /// Its name: what samples of it are kept under.
    pub fn name(&self) -> &str {
        match self {
            Self::Host(metric) => metric.as_str(),
            Self::Guest(metric) => metric.as_str(),
            Self::Balancer(metric) => metric.as_str(),
            Self::External(external) => &external.name,
        }
    }

    /// The metric of that name among those that need no description.
    pub fn named(name: &str) -> Option<Self> {
        let host = HostMetric::ALL.iter().find(|m| m.as_str() == name).copied();
        let guest = GuestMetric::ALL.iter().find(|m| m.as_str() == name).copied();
        let balancer = BalancerMetric::ALL.iter().find(|m| m.as_str() == name).copied();
        (host.map(Self::Host))
            .or(guest.map(Self::Guest))
            .or(balancer.map(Self::Balancer))
    }

    /// Names of all metrics that need no description.
    pub fn names() -> Vec<&'static str> {
        let host = HostMetric::ALL.iter().map(|m| m.as_str());
        let guest = GuestMetric::ALL.iter().map(|m| m.as_str());
        host.chain(guest)
            .chain(BalancerMetric::ALL.iter().map(|m| m.as_str()))
            .collect()
    }

    /// What its numbers are in.
    pub const fn unit(&self) -> Unit {
        match self {
            Self::Host(HostMetric::Cpu | HostMetric::Memory)
            | Self::Guest(GuestMetric::Cpu | GuestMetric::Memory | GuestMetric::Disk) => Unit::Percent,
            Self::Host(
                HostMetric::DiskReadBytes
                | HostMetric::DiskWriteBytes
                | HostMetric::NetworkReceiveBytes
                | HostMetric::NetworkSendBytes,
            ) => Unit::BytesPerSecond,
            Self::Host(HostMetric::DiskReads | HostMetric::DiskWrites)
            | Self::Balancer(BalancerMetric::Requests) => Unit::PerSecond,
            Self::Balancer(BalancerMetric::Latency) => Unit::Milliseconds,
            Self::Guest(GuestMetric::Load)
            | Self::Balancer(BalancerMetric::Connections | BalancerMetric::Queue)
            | Self::External(_) => Unit::None,
        }
    }

    /// Whether every instance has its own value. If not, there is one for the set.
    pub const fn is_per_instance(&self) -> bool {
        !matches!(self, Self::External(_))
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a metric's numbers are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Of a hundred.
    Percent,
    /// Bytes per second.
    BytesPerSecond,
    /// Times per second.
    PerSecond,
    /// Milliseconds.
    Milliseconds,
    /// A bare number.
    None,
}

impl Unit {
    /// A value as people read it: "72 %", "1.5 MiB/s", "40/s", "12 ms", "1250".
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Percent => format!("{} %", number(value)),
            Self::BytesPerSecond => {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a rate of bytes fits, and the fraction of a byte is nothing to show"
                )]
                let bytes = value.max(0.0) as u64;
                format!("{}/s", crate::units::Bytes(bytes))
            }
            Self::PerSecond => format!("{}/s", number(value)),
            Self::Milliseconds => format!("{} ms", number(value)),
            Self::None => number(value),
        }
    }
}

/// A number with as many digits as help: three, or all before the point.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        n if n >= 100.0 => 0,
        n if n >= 10.0 => 1,
        n if n >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    };
    match text.as_str() {
        "-0" => "0".to_owned(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_found_by_its_name() {
        for name in Metric::names() {
            assert_eq!(
                Metric::named(name).map(|m| m.name().to_owned()).as_deref(),
                Some(name)
            );
        }
        assert_eq!(Metric::named("host.gpu"), None);
    }

    #[test]
    fn numbers_have_the_digits_that_help() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0001, "0"),
            (0.123_45, "0.123"),
            (1.5, "1.5"),
            (72.26, "72.3"),
            (72.0, "72"),
            (416.67, "417"),
            (1_250.0, "1250"),
        ] {
            assert_eq!(number(value), text);
        }
        assert_eq!(Unit::Percent.show(71.96), "72 %");
        assert_eq!(Unit::BytesPerSecond.show(1_572_864.0), "1.5 MiB/s");
    }
}
