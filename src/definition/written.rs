//! The definition's shape, as it is written: every key, its meaning, its type and its default. The JSON Schema is made
//! of it, and the reader takes the keys that are allowed in a section from it: one source for both.

use std::collections::BTreeMap;

use schemars::JsonSchema;

/// A size with its unit, such as "2 GiB" or "512 MiB".
#[derive(JsonSchema)]
#[schemars(transparent)]
#[expect(dead_code, reason = "only its schema is used")]
pub struct Size(#[schemars(regex(pattern = r"^\s*[0-9]+(\.[0-9]+)?\s*([KMGTP]i?)?B\s*$"))] String);

/// A duration with its unit, such as "90s" or "10m".
#[derive(JsonSchema)]
#[schemars(transparent)]
#[expect(dead_code, reason = "only its schema is used")]
pub struct Span(#[schemars(regex(pattern = r"^[0-9].*[a-z]$"))] String);

/// A number of instances, such as 2, or a share of them, such as "20%": rounded down, but 1 at least unless it is 0%.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
pub enum Amount {
    /// So many.
    Count(#[schemars(range(max = 1_000_000))] u32),
    /// So many in a hundred.
    Percent(#[schemars(regex(pattern = r"^\s*(100|0?[0-9]{1,2})\s*%\s*$"))] String),
}

/// A number of instances, such as 2, or a share of them, such as "20%": rounded down, but 1 at least. Never 0.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
pub enum SomeAmount {
    /// So many.
    Count(#[schemars(range(min = 1, max = 1_000_000))] u32),
    /// So many in a hundred.
    Percent(#[schemars(regex(pattern = r"^\s*(100|0?[1-9][0-9]|0{0,2}[1-9])\s*%\s*$"))] String),
}

/// A DNS label.
#[derive(JsonSchema)]
#[schemars(transparent)]
#[expect(dead_code, reason = "only its schema is used")]
pub struct Name(
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")
    )]
    String,
);

macro_rules! section {
    ($(#[$meta:meta])* $name:ident { $($(#[$field:meta])* $key:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(JsonSchema)]
        #[schemars(deny_unknown_fields)]
        #[expect(dead_code, reason = "only its schema is used")]
        pub struct $name { $($(#[$field])* $key: $type,)* }
    };
}

section! {
    /// A vmss scale set: one declared group of identical virtual machines on libvirt hosts.
    Definition {
        /// Name of the set: a DNS label of 50 characters at most. Instances are <name>-1, <name>-2, ...
        name: Name,
        /// Instances that the first create makes. Afterwards `vmss scale` says how many.
        #[schemars(range(max = 1_000_000), default = "one")]
        capacity: Option<u32>,
        /// The OS image.
        image: Image,
        /// What an instance is made of.
        instance: Instance,
        /// Groups of hosts that fail together: a rack, a power feed, a room.
        #[schemars(length(min = 1))]
        fault_domains: Vec<FaultDomain>,
        /// Where instances may be placed.
        placement: Option<Placement>,
        /// How much is asked of a host at once, and how long it may take.
        limits: Option<Limits>,
        /// Which instances go first when the set shrinks, and how.
        scale_in: Option<ScaleIn>,
        /// How an instance's health is asked. Without, an instance that runs is healthy.
        health: Option<Health>,
        /// How instances are brought to a new model.
        upgrade: Option<Upgrade>,
        /// What is done about unhealthy instances. Without, nothing.
        repair: Option<Repair>,
        /// Through what the set is used. Without, nothing sends clients to it.
        load_balancer: Option<LoadBalancer>,
        /// Files that tell others where the set serves, written whenever that changes.
        discovery: Option<Vec<Discovery>>,
        /// How the set grows and shrinks by itself. Without, only `vmss scale` changes its capacity.
        autoscale: Option<Autoscale>,
        /// Where vmss keeps the set's record.
        state: Option<State>,
    }
}

section! {
    /// The OS image: a qcow2 without a backing file, or a raw disk with a partition table or a boot sector.
    Image {
        /// A path, relative to this file, or an http(s) URL.
        source: String,
        /// SHA-256 of the image, 64 hex digits. Required for a URL; checked if given.
        #[schemars(regex(pattern = r"^[0-9a-fA-F]{64}$"))]
        sha256: Option<String>,
    }
}

section! {
    /// The model of an instance.
    Instance {
        /// Virtual CPUs.
        #[schemars(range(min = 1, max = 512), default = "one")]
        vcpus: Option<u32>,
        /// Memory, at least 16 MiB.
        memory: Size,
        /// OS disk, never smaller than the image; the default is the image's own size.
        disk: Option<Size>,
        /// A thin overlay on the host's copy of the image, or a copy of its own.
        #[schemars(extend("enum" = ["linked", "full"], "default" = "linked"))]
        clone: Option<String>,
        /// "host-model", "host-passthrough", "maximum", or a model's name. The default is "host-model", and "maximum" when emulated.
        cpu: Option<String>,
        /// "kvm" or "qemu" (emulation), or whichever the host offers.
        #[schemars(extend("enum" = ["auto", "kvm", "qemu"], "default" = "auto"))]
        virtualization: Option<String>,
        /// What the guest boots with.
        #[schemars(extend("enum" = ["bios", "uefi"], "default" = "bios"))]
        firmware: Option<String>,
        /// A cloud-init user data file, relative to this file. Rendered as a template when it has {{ }}, {% %} or {# #}.
        user_data: Option<String>,
        /// Values for vars.* in the user data.
        vars: Option<BTreeMap<String, String>>,
        /// Network cards, at most 8. Without any, an instance has no network.
        #[schemars(length(max = 8))]
        networks: Option<Vec<Network>>,
        /// Data disks: made empty, deleted with the instance.
        #[schemars(length(max = 16))]
        data_disks: Option<Vec<DataDisk>>,
    }
}

section! {
    /// A network card: exactly one of bridge and network.
    Network {
        /// A bridge of the host.
        #[schemars(length(min = 1, max = 15))]
        bridge: Option<String>,
        /// A libvirt network.
        network: Option<String>,
        /// Addresses that vmss hands out, such as "10.0.0.10-10.0.0.99/24". Without, the guest asks DHCP.
        addresses: Option<String>,
        /// Default gateway, only with addresses.
        gateway: Option<String>,
        /// Name servers, only with addresses.
        dns: Option<Vec<String>>,
        /// Subnets, such as "10.0.0.0/8", of the addresses that a guest may tell of itself. Without, any that is nobody else's.
        within: Option<Vec<String>>,
    }
}

section! {
    /// A data disk.
    DataDisk {
        /// Its name; also its serial in the guest (/dev/disk/by-id/virtio-<name>).
        name: Name,
        /// Its size.
        size: Size,
    }
}

section! {
    /// Hosts that fail together.
    FaultDomain {
        /// Its name.
        name: Name,
        /// Its hosts.
        #[schemars(length(min = 1))]
        hosts: Vec<Host>,
    }
}

section! {
    /// One libvirt host.
    Host {
        /// Its name in messages and plans.
        name: Name,
        /// Its libvirt URI, such as "qemu+ssh://vmss@kvm1/system".
        uri: String,
        /// The storage pool for images, disks and seeds; a directory.
        #[schemars(extend("default" = "default"))]
        pool: Option<String>,
        /// Address or DNS name at which the other hosts reach it when an instance is moved to it live; its own host
        /// name if left out.
        migration_address: Option<String>,
    }
}

section! {
    /// Rules of placement.
    Placement {
        /// What happens when a fault domain is full or down: fill the others, or refuse.
        #[schemars(extend("enum" = ["best-effort", "strict"], "default" = "best-effort"))]
        spread: Option<String>,
        /// Largest difference between two fault domains that strict spread accepts.
        #[schemars(range(min = 1), default = "one")]
        max_skew: Option<u32>,
        /// Virtual CPUs per CPU of a host.
        #[schemars(range(max = 100.0), extend("default" = 4.0, "exclusiveMinimum" = 0))]
        vcpu_overcommit: Option<f64>,
        /// Memory kept free on every host.
        #[schemars(extend("default" = "1 GiB"))]
        memory_reserve: Option<Size>,
        /// Space kept free in every pool: what thin disks grow into.
        #[schemars(extend("default" = "1 GiB"))]
        pool_reserve: Option<Size>,
    }
}

section! {
    /// How much is asked of a host at once, and how long it may take.
    Limits {
        /// Calls in flight per host, each on a connection of its own.
        #[schemars(range(min = 1, max = 4), extend("default" = 4))]
        calls_per_host: Option<u32>,
        /// Instances made or started at once per host; not more than calls_per_host.
        #[schemars(range(min = 1, max = 4), extend("default" = 2))]
        starts_per_host: Option<u32>,
        /// How long a host may give no sign of life before it counts as hung; 1s to 10m.
        #[schemars(extend("default" = "30s"))]
        call_timeout: Option<Span>,
    }
}

section! {
    /// Which instances go first when the set shrinks, and how.
    ScaleIn {
        /// Among equals: the highest id, the newest or the oldest first. The fullest fault domain always comes first.
        #[schemars(extend("enum" = ["default", "newest", "oldest"], "default" = "default"))]
        policy: Option<String>,
        /// How long a guest may take to shut down before it is switched off; 0s to 1h.
        #[schemars(extend("default" = "60s"))]
        shutdown: Option<Span>,
        /// Whether new instances are made protected from scale in.
        #[schemars(extend("default" = false))]
        protect_new: Option<bool>,
    }
}

section! {
    /// How an instance's health is asked.
    Health {
        /// What is asked: GET a path, make a TCP connection, ping the guest agent, or nothing: running is healthy.
        #[schemars(extend("enum" = ["http", "https", "tcp", "agent", "none"], "default" = "none"))]
        probe: Option<String>,
        /// The port, for http (80 without), https (443 without; certificates are not checked) and tcp (required).
        #[schemars(range(min = 1, max = 65_535))]
        port: Option<u32>,
        /// The path, for http and https. A 200 is healthy, unless the body is JSON that has an ApplicationHealthState.
        #[schemars(regex(pattern = r"^/[A-Za-z0-9._~!$&'()*+,;=:@/?%-]*$"), extend("default" = "/"))]
        path: Option<String>,
        /// Time between two probes of an instance; 1s to 60s.
        #[schemars(extend("default" = "5s"))]
        interval: Option<Span>,
        /// How long the whole answer may take; 100ms to 60s.
        #[schemars(extend("default" = "2s"))]
        timeout: Option<Span>,
        /// Failures in a row that make a healthy instance unhealthy.
        #[schemars(range(min = 1, max = 10), extend("default" = 2))]
        unhealthy_after: Option<u32>,
        /// Successes in a row that make an instance healthy.
        #[schemars(range(min = 1, max = 10), extend("default" = 2))]
        healthy_after: Option<u32>,
        /// How long an instance may fail its probe after it was made, started or changed; 0s to 2h. The first success ends it.
        #[schemars(extend("default" = "10m"))]
        grace_period: Option<Span>,
    }
}

section! {
    /// How instances are brought to a new model.
    Upgrade {
        /// When: batch by batch as soon as the model is applied, only by `vmss upgrade`, or all at once as soon as it is applied.
        #[schemars(extend("enum" = ["rolling", "manual", "automatic"], "default" = "rolling"))]
        policy: Option<String>,
        /// By what: the least disruptive that the change allows, a new OS disk for the same instance, or another instance.
        #[schemars(extend("enum" = ["auto", "reimage", "replace"], "default" = "auto"))]
        method: Option<String>,
        /// Most instances changed at once, of the set.
        #[schemars(extend("default" = "20%"))]
        max_batch: Option<SomeAmount>,
        /// Most instances above capacity at any moment; only replacing uses them.
        #[schemars(extend("default" = 0))]
        max_surge: Option<Amount>,
        /// Most instances below capacity at any moment that are not healthy because of the upgrade. Not 0 together with max_surge.
        #[schemars(extend("default" = "20%"))]
        max_unavailable: Option<Amount>,
        /// Most unhealthy instances before a batch. Those that this upgrade is due to change don't count.
        #[schemars(extend("default" = "20%"))]
        max_unhealthy: Option<Amount>,
        /// Most unhealthy instances among those upgraded, after a batch.
        #[schemars(extend("default" = "20%"))]
        max_unhealthy_upgraded: Option<Amount>,
        /// Time between two batches; 0s to 24h.
        #[schemars(extend("default" = "0s"))]
        pause: Option<Span>,
        /// How long an upgraded instance must have been healthy before the batch counts as done; 0s to 1h.
        #[schemars(extend("default" = "0s"))]
        min_ready: Option<Span>,
        /// Once so many are upgraded, hold for checkpoint_pause: numbers or shares, from few to many.
        #[schemars(extend("default" = []))]
        checkpoints: Option<Vec<SomeAmount>>,
        /// How long to hold at a checkpoint; 0s: until `vmss upgrade resume`; at most 7 days.
        #[schemars(extend("default" = "1h"))]
        checkpoint_pause: Option<Span>,
        /// How long the upgraded instances are watched after the last batch; 0s to 48h.
        #[schemars(extend("default" = "0s"))]
        bake: Option<Span>,
        /// How long a batch may take; 1s to 24h, longer than min_ready.
        #[schemars(extend("default" = "15m"))]
        batch_timeout: Option<Span>,
        /// Whether every unhealthy instance is upgraded before any healthy one.
        #[schemars(extend("default" = true))]
        prioritize_unhealthy: Option<bool>,
        /// What happens when a batch fails or takes too long: the upgrade stops where it is, or what was upgraded goes back.
        #[schemars(extend("enum" = ["stop", "rollback"], "default" = "stop"))]
        on_failure: Option<String>,
        /// What happens to instances that are protected from everything, or stopped: left out, waited for (an hour), or upgraded too.
        #[schemars(extend("enum" = ["skip", "wait", "include"], "default" = "skip"))]
        protected: Option<String>,
    }
}

section! {
    /// What is done about unhealthy instances.
    Repair {
        /// Whether anything is.
        #[schemars(extend("default" = false))]
        enabled: Option<bool>,
        /// By what: switched off and on, a new OS disk for the same instance, or another instance.
        #[schemars(extend("enum" = ["restart", "reimage", "replace"], "default" = "replace"))]
        action: Option<String>,
        /// How long an instance must have been unhealthy; 1m to 90m.
        #[schemars(extend("default" = "10m"))]
        grace_period: Option<Span>,
        /// Most instances repaired at once, those that are starting after it among them; one at least.
        #[schemars(extend("default" = "5%"))]
        max_concurrent: Option<SomeAmount>,
        /// More unhealthy instances than this look like an outage: then none is repaired. Those out of sight count unless they still answer.
        #[schemars(extend("default" = "50%"))]
        max_unhealthy: Option<Amount>,
        /// How long a host must have been out of sight before its instances are replaced elsewhere; 1m to 24h. Those that still answer
        /// a tcp, http or https probe are left alone; with the probes none and agent nobody can ask them and this time alone decides.
        #[schemars(extend("default" = "15m"))]
        host_lost_after: Option<Span>,
    }
}

section! {
    /// Where vmss keeps the set's record.
    State {
        /// The kind of store.
        #[schemars(extend("enum" = ["sqlite"], "default" = "sqlite"))]
        store: Option<String>,
        /// The store's file, relative to this file. The default is /var/lib/vmss/state.db for root, ~/.local/state/vmss/state.db for others.
        path: Option<String>,
    }
}

section! {
    /// The load balancer: HAProxy, run by vmss or running already. Instances are in it while they are healthy, and leave it before anything is done to them.
    LoadBalancer {
        /// "local": vmss runs HAProxy here. Or name sockets.
        #[schemars(extend("enum" = ["local"]))]
        run: Option<String>,
        /// Admin sockets of HAProxies that run already, all alike: "unix:/run/haproxy/admin.sock", "tcp:10.0.0.2:9999".
        #[schemars(length(min = 1))]
        sockets: Option<Vec<String>>,
        /// How long an instance that leaves may keep the connections it has, 0s to 1h. It ends at zero connections.
        #[schemars(extend("default" = "5m"))]
        drain: Option<Span>,
        /// Over which time an instance that has joined comes to its full share, 0s to 15m.
        #[schemars(extend("default" = "0s"))]
        slow_start: Option<Span>,
        /// A loopback address for HAProxy's statistics page, with run = "local": "127.0.0.1:8404".
        stats: Option<String>,
        /// Where clients connect.
        #[schemars(length(min = 1))]
        frontends: Vec<Frontend>,
    }
}

section! {
    /// Where clients connect, and how they are spread over the instances.
    Frontend {
        /// Its name: a DNS label.
        name: Name,
        /// Where clients connect, one address or several: "0.0.0.0:8080", "[::]:8080", "*:8080". Required with run = "local".
        bind: Option<Binds>,
        /// Requests, or bytes.
        #[schemars(extend("enum" = ["http", "tcp"], "default" = "http"))]
        mode: Option<String>,
        /// Port of the instances.
        #[schemars(range(min = 1, max = 65535))]
        port: u16,
        /// Who is next: in turn, with the fewest connections, by lot, or by the client's address.
        #[schemars(extend("enum" = ["roundrobin", "leastconn", "random", "source"], "default" = "roundrobin"))]
        balance: Option<String>,
        /// PEM file with certificate and key, relative to this file: TLS ends at the balancer.
        certificate: Option<String>,
        /// Whether a client comes back to the instance it had: by a cookie (mode http), or by its address.
        #[schemars(extend("enum" = ["none", "cookie", "source"], "default" = "none"))]
        stickiness: Option<String>,
        /// Most requests (mode tcp: connections) that one instance serves at a time; others wait in HAProxy (lb.queue). Without, as many as come.
        #[schemars(range(min = 1, max = 1_000_000))]
        max_connections: Option<u32>,
        /// With sockets: the backend's name there. The default is vmss-<set>-<frontend>.
        #[schemars(regex(pattern = r"^[A-Za-z0-9._:-]{1,128}$"))]
        backend: Option<String>,
    }
}

/// An address with its port, or several.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
pub enum Binds {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

section! {
    /// A file that tells somebody else where the set serves.
    Discovery {
        /// For whom it is written.
        #[schemars(extend("enum" = ["prometheus", "traefik", "envoy", "nginx"]))]
        format: String,
        /// The file, relative to this one.
        file: String,
        /// Port of the instances.
        #[schemars(range(min = 1, max = 65535))]
        port: u16,
        /// What the set is called in it. The default is the set's name.
        name: Option<Name>,
        /// A command to run after the file has changed: a program and its arguments, without a shell.
        reload: Option<Vec<String>>,
        /// How long an instance that was taken out is left as it is, 0s to 1h. Not for prometheus, which leads no clients.
        #[schemars(extend("default" = "30s"))]
        drain: Option<Span>,
    }
}

section! {
    /// How the set grows and shrinks by itself: bounds, rules and targets, for all times or in profiles. `vmss autoscale` evaluates once, `vmss run` at its interval.
    Autoscale {
        /// Whether it does.
        #[schemars(extend("default" = true))]
        enabled: Option<bool>,
        /// How long an instance must have been healthy before it counts in averages; 0s to 1h.
        #[schemars(extend("default" = "1m"))]
        warm_up: Option<Span>,
        /// The set shrinks to no less than what was recommended at any moment within this time; 0s to 1h.
        #[schemars(extend("default" = "10m"))]
        stabilization: Option<Span>,
        /// How long after any change by a rule the set may grow again; 0s to 24h. Without, the cooldown of that rule.
        cooldown_out: Option<Span>,
        /// How long after any change by a rule the set may shrink again; 0s to 24h. Without, the cooldown of that rule.
        cooldown_in: Option<Span>,
        /// How far the set may shrink within some time.
        max_scale_in: Option<ScaleInLimit>,
        /// The Prometheus server for metrics that name none, such as "http://127.0.0.1:9090".
        prometheus: Option<String>,
        /// Numbers from elsewhere, by the names that rules and targets call them.
        metrics: Option<BTreeMap<String, ExternalMetric>>,
        /// IANA time zone of dates, recurrences and schedules that name none.
        #[schemars(extend("default" = "UTC"))]
        time_zone: Option<String>,
        /// Fewest instances, in place of a profile for all times.
        #[schemars(range(max = 1_000_000))]
        min: Option<u32>,
        /// Most instances, in place of a profile for all times.
        #[schemars(range(max = 1_000_000))]
        max: Option<u32>,
        /// Instances where metrics are missing and there are fewer, in place of a profile for all times.
        #[schemars(range(max = 1_000_000))]
        default: Option<u32>,
        /// Rules, in place of a profile for all times.
        rules: Option<Vec<Rule>>,
        /// A value at which a metric is held, or several, in place of a profile for all times.
        target: Option<Targets>,
        /// Bounds and rules for some times. Exactly one is without dates and recurrence: it holds when no other does.
        profiles: Option<Vec<Profile>>,
        /// Minimums for a while; of several that hold, the largest counts.
        schedules: Option<Vec<Schedule>>,
        /// Raises the capacity ahead of a load that comes back every day or week.
        predict: Option<Predict>,
    }
}

section! {
    /// How far the set may shrink within some time.
    ScaleInLimit {
        /// How many instances may go, of the most there were within that time.
        count: SomeAmount,
        /// The time; 1m to 24h.
        per: Span,
    }
}

section! {
    /// A number from elsewhere: a Prometheus query whose result is one number, or a number in a JSON document.
    ExternalMetric {
        /// The query.
        prometheus: Option<String>,
        /// The server that is asked, if it is not that of autoscale.prometheus.
        url: Option<String>,
        /// The document's URL.
        http: Option<String>,
        /// Where in the document the number is, such as "/queue/length" (RFC 6901). Without, the document is the number.
        pointer: Option<String>,
        /// What the number is about: the usual instance, or the whole set, which its instances share.
        #[schemars(extend("enum" = ["instance", "set"], "default" = "instance"))]
        of: Option<String>,
        /// A file with a bearer token, relative to this file. It is read when it is used.
        token_file: Option<String>,
    }
}

/// A metric: host.cpu, guest.memory, lb.requests and the like, a name in autoscale.metrics, or a number from elsewhere.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
pub enum Metric {
    /// By its name.
    Name(String),
    /// Described in place.
    Described(ExternalMetric),
}

section! {
    /// Bounds and rules for some time.
    Profile {
        /// Its name.
        #[schemars(length(min = 1, max = 63))]
        name: String,
        /// Fewest instances.
        #[schemars(range(max = 1_000_000))]
        min: u32,
        /// Most instances.
        #[schemars(range(max = 1_000_000))]
        max: u32,
        /// Instances where metrics are missing and there are fewer, and always where there is neither rule nor target. Without, min.
        #[schemars(range(max = 1_000_000))]
        default: Option<u32>,
        /// When it holds once. Dates come before recurrences; of several, the first one here.
        dates: Option<Dates>,
        /// When it holds again and again; of several, the first one here.
        recurrence: Option<Recurrence>,
        /// When something measured is over or under a threshold, change the capacity.
        rules: Option<Vec<Rule>>,
        /// A value at which a metric is held, or several: as many instances as that needs.
        target: Option<Targets>,
    }
}

section! {
    /// A time that comes once.
    Dates {
        /// When it begins: "2026-12-24", "2026-12-24 18:00", or with an offset, "2026-12-24T18:00:00+01:00".
        from: Date,
        /// When it has ended.
        to: Date,
        /// IANA time zone. Without, that of autoscale.time_zone.
        time_zone: Option<String>,
    }
}

section! {
    /// A time that comes again: a cron with a duration, or days with from and to.
    Recurrence {
        /// When it begins: minute, hour, day of the month, month, day of the week.
        cron: Option<String>,
        /// With cron: how long it lasts; 1m to 7d.
        duration: Option<Span>,
        /// The days it begins on. Without, all.
        #[schemars(length(min = 1))]
        days: Option<Vec<Day>>,
        /// The time of day it begins.
        #[schemars(regex(pattern = r"^[0-9]{2}:[0-9]{2}$"))]
        from: Option<String>,
        /// The time of day it ends; on the next day, unless that is later than from.
        #[schemars(regex(pattern = r"^[0-9]{2}:[0-9]{2}$"))]
        to: Option<String>,
        /// IANA time zone. Without, that of autoscale.time_zone.
        time_zone: Option<String>,
    }
}

/// A day of the week.
#[derive(JsonSchema)]
#[schemars(transparent)]
#[expect(dead_code, reason = "only its schema is used")]
pub struct Day(#[schemars(extend("enum" = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]))] String);

section! {
    /// When a metric is over or under a threshold, change the capacity. Any rule suffices to grow; to shrink, all rules that shrink must agree.
    Rule {
        /// What is measured; may stand in `when` instead.
        metric: Option<Metric>,
        /// How the values of instances become one.
        #[schemars(extend("enum" = ["average", "min", "max", "sum"], "default" = "average"))]
        over: Option<String>,
        /// The condition: "> 70%", or whole: "host.cpu > 70 avg 5m".
        when: String,
        /// How the values within the window become one; may stand in `when` instead.
        #[schemars(extend("enum" = ["average", "min", "max", "last"], "default" = "average"))]
        statistic: Option<String>,
        /// The window, 0s to 24h; 0s: the newest value alone. May stand in `when` instead.
        #[schemars(extend("default" = "5m"))]
        window: Option<Span>,
        /// What happens: "+1", "+20%", "-1", "-50%", "=10".
        change: Option<String>,
        /// The same in words: "out 1", "out 20%", "in 1", "in 50%", "to 10".
        scale: Option<String>,
        /// How long no rule changes the capacity after this one has; 0s to 24h.
        #[schemars(extend("default" = "5m"))]
        cooldown: Option<Span>,
    }
}

/// One target, or several.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
pub enum Targets {
    /// One.
    One(Target),
    /// Several.
    Several(Vec<Target>),
}

section! {
    /// A value at which a metric is held, as the average of instances: as many instances as that needs, within 10 % of it nothing.
    Target {
        /// What is measured.
        metric: Metric,
        /// Where it is held.
        value: Value,
        /// Over which time it is averaged, 0s to 24h.
        #[schemars(extend("default" = "5m"))]
        window: Option<Span>,
        /// How long no rule changes the capacity after this one has; 0s to 24h.
        #[schemars(extend("default" = "0s"))]
        cooldown: Option<Span>,
    }
}

/// A number, or one with its metric's unit, such as "60%".
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
pub enum Value {
    /// Bare.
    Number(f64),
    /// With its unit.
    Text(String),
}

/// A date with or without a time and an offset.
#[derive(JsonSchema)]
#[schemars(transparent)]
#[expect(dead_code, reason = "only its schema is used")]
pub struct Date(String);

section! {
    /// A minimum for a while.
    Schedule {
        /// Its name.
        #[schemars(length(min = 1, max = 63))]
        name: String,
        /// When it begins: minute, hour, day of the month, month, day of the week.
        cron: String,
        /// How long it holds; 1m to 7d.
        duration: Span,
        /// Fewest instances while it holds.
        #[schemars(range(max = 1_000_000))]
        min: u32,
        /// IANA time zone. Without, that of autoscale.time_zone.
        time_zone: Option<String>,
    }
}

section! {
    /// Raises the capacity ahead of a load that comes back, so that instances serve when it does. It never lowers it.
    Predict {
        /// Say what it would do, or do it.
        #[schemars(extend("enum" = ["forecast-only", "scale"], "default" = "forecast-only"))]
        mode: Option<String>,
        /// After which time the load comes back.
        #[schemars(extend("enum" = ["daily", "weekly"], "default" = "daily"))]
        pattern: Option<String>,
        /// How far ahead it looks, 1m to 2h: as long as an instance takes until it serves.
        #[schemars(extend("default" = "10m"))]
        lead: Option<Span>,
    }
}

fn one() -> Option<u32> {
    Some(1)
}

/// The JSON Schema of a definition.
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(Definition).to_value();
    // schemars writes optional fields as "type or null"; TOML has no null.
    drop_null(&mut schema);
    schema
}

/// [`schema`], made once in a process: the controller reads definitions again and again.
pub(super) fn schema_once() -> &'static serde_json::Value {
    static SCHEMA: std::sync::LazyLock<serde_json::Value> = std::sync::LazyLock::new(schema);
    &SCHEMA
}

fn drop_null(value: &mut serde_json::Value) {
    use serde_json::Value;
    match value {
        Value::Object(map) => {
            if let Some(Value::Array(types)) = map.get_mut("type") {
                types.retain(|t| t != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    map.insert("type".into(), only);
                }
            }
            if let Some(Value::Array(any)) = map.get_mut("anyOf") {
                any.retain(|t| t.get("type") != Some(&Value::from("null")));
                if let [Value::Object(only)] = any.as_slice() {
                    let only = only.clone();
                    map.remove("anyOf");
                    map.extend(only);
                }
            }
            if map.get("default") == Some(&Value::Null) {
                map.remove("default");
            }
            map.values_mut().for_each(drop_null);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_null),
        _ => {}
    }
}

/// The keys of a section, by the name of its type here; "Definition" is the top level.
pub fn keys(schema: &serde_json::Value, section: &str) -> Vec<String> {
    let section = if section == "Definition" {
        schema
    } else {
        &schema["$defs"][section]
    };
    section["properties"]
        .as_object()
        .map(|p| p.keys().cloned().collect())
        .unwrap_or_default()
}
