//! The commands of a scenario that act on the fleet, not on vmss: hosts are added, fail, and are meddled with.

use std::time::Duration;

use vmss::hypervisor::FaultKind;
use vmss::hypervisor::fake::{Agent, Failure, FakeHost, Fault, Fleet, Load};
use vmss::inventory::{Power, Protection};
use vmss::names::{InstanceId, Label};
use vmss::units::Bytes;

/// The commands, for people and for the error about an unknown one.
pub const COMMANDS: &str = "\
host DOMAIN NAME [cpus N] [memory SIZE] [pool SIZE] [without-kvm] [lacks NETWORK]   adds a host
kill HOST                    it is down; its guests run on
reboot HOST                  it comes back after a power failure: its guests are off
heal HOST                    all faults of the host end
power-cut HOST               it has lost power; its guests answer nothing, and are off when it is back (reboot, heal)
cut HOST                     its guests answer no probe; calls work
hang HOST                    calls wait until it is healed
die HOST after N             it is down after N more steps
call HOST NAME               the definition calls the host so when it is written next
full HOST [unseen]           its pool is full; unseen: no observation shows it
starts-fail HOST [ID]        instances, or one, don't start
corrupt HOST                 images arrive as something else
cut-image HOST               somebody cuts every copy of an image there short
deaf HOST [ID]               guests don't hear that they are to shut down
slow HOST SECONDS            each step takes that long
foreign HOST NAME            somebody else's domain appears
undefine HOST NAME           somebody takes a domain away
rename HOST NAME NEWNAME     somebody undefines a domain and defines it under another name
copy HOST NAME TO-HOST [off]  somebody has a domain on another host too, running or off
forge HOST NAME FROM-NAME [protected]  somebody makes a domain with the note of another, and the id in NAME
attach HOST NAME VOLUME      a domain uses a volume from now on: of-NAME stands for the OS disk of the domain NAME
move HOST NAME TO-HOST [keeping]  somebody moves a running domain by hand; keeping: its definition stays behind, off
reinstall HOST [keeping]     somebody installs a host anew: its domains are gone, and its disks too, unless he keeps them
snapshot HOST NAME           somebody makes a snapshot of a domain
revert HOST NAME             somebody reverts a domain to it, note and all
lose-note HOST NAME          somebody leaves nothing of a domain's note that can be read
take-volume HOST VOLUME      somebody deletes a volume
backup-pool HOST             somebody makes a backup of a host's pool
restore-pool HOST            somebody puts back what is in it and no more in the pool
alias HOST NAME              the host is reached under another name too
pool-off HOST                its pool is inactive; its guests run on
pool-on HOST                 its pool is active again
shares HOST HOST             the second has its pool in the folder of the first from now on
refresh HOST                 it looks into its pool's folder again
power-off HOST NAME          somebody switches a domain off
crash HOST NAME              a domain's guest crashes
unhealthy HOST NAME          a domain's guest fails its probes until it is started anew
healthy HOST NAME            it passes them again
names HOST NAME ADDRESSES    a domain's guest agent names these addresses
noted HOST NAME ADDRESSES    somebody writes these addresses into a domain's note
leases HOST NAME ADDRESSES   the network leases these addresses to a domain, and none else
agent HOST NAME STATE        a domain's guest agent is broken, absent or well, until its guest is started anew
network down                 the machine that vmss runs on has lost its network: no probe finds a way
network up                   it has it again
says HOST NAME WORDS         a domain's guest says a line on its console
balancer NAME down          a load balancer answers nobody
balancer NAME up            it does again
balancer NAME restarted     it was started anew, without the servers it was given
balancer NAME killed        the one that vmss runs is gone, as after a kill -9
balancer NAME refuses WORDS  it takes no more servers
balancer NAME accepts       it does again
balancer NAME loses INSTANCE  it can't reach an instance, whose name need not be there yet
balancer NAME reaches INSTANCE  it can again
clients INSTANCE N          so many clients are connected to an instance through every load balancer that has it in
load INSTANCE PERCENT        an instance's CPUs are that busy
share PERCENT                the set's instances share a load of that many percent of one instance's CPUs
requests BALANCER N          so many requests come per second, to each frontend
boots HOST SECONDS           its guests answer that long after their start
kill-vmss after N            the next commands' process is killed right after N more steps
kill-vmss before N           the same, at the last moment before the next step
revive                       another process begins
sleep SECONDS                time passes";

/// The fleet of a scenario, with its hosts as they were declared: fault domain and name.
pub struct Stage {
    /// The fleet.
    pub fleet: std::sync::Arc<Fleet>,
    /// Hosts in declared order.
    pub hosts: Vec<(Label, Label)>,
    /// What the definition calls hosts otherwise.
    pub called: std::collections::BTreeMap<Label, Label>,
    backups: super::daily::Backups,
}

impl Default for Stage {
    fn default() -> Self {
        Self {
            fleet: Fleet::new(),
            hosts: Vec::new(),
            called: Default::default(),
            backups: Default::default(),
        }
    }
}

impl Stage {
    /// Does what the words say; `None` if they are no command of the stage's, but perhaps another's.
    pub fn command(&mut self, words: &[String]) -> Option<Result<(), String>> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (verb, rest) = words.split_first()?;
        let known = COMMANDS
            .lines()
            .chain(super::daily::COMMANDS.lines())
            .filter_map(|l| l.split_whitespace().next())
            .any(|v| v == *verb);
        known.then(|| {
            self.perform(verb, rest)
                .map_err(|e| format!("{}: {e}", words.join(" ")))
        })
    }

    fn perform(&mut self, verb: &str, words: &[&str]) -> Result<(), String> {
        let fleet = &self.fleet;
        match (verb, words) {
            ("host", [domain, name, rest @ ..]) => return self.add_host(domain, name, rest),
            ("kill-vmss", ["after", n]) => fleet.kill_after(number(n)?),
            ("kill-vmss", ["before", n]) => fleet.kill_before(number(n)?),
            ("revive", []) => fleet.revive(),
            ("network", [state @ ("down" | "up")]) => fleet.set_without_network(*state == "down"),
            ("balancer", [name, "down"]) => fleet.set_balancer_down(name, true),
            ("balancer", [name, "up"]) => fleet.set_balancer_down(name, false),
            ("balancer", [name, "restarted"]) => fleet.restart_balancer(name),
            ("balancer", [name, "killed"]) => fleet.kill_balancer(name),
            ("balancer", [name, "refuses", words @ ..]) => {
                fleet.set_balancer_refuses(name, Some(words.join(" ")));
            }
            ("balancer", [name, "loses", instance]) => fleet.cut_balancer_off(name, instance, true),
            ("balancer", [name, "reaches", instance]) => fleet.cut_balancer_off(name, instance, false),
            ("balancer", [name, "accepts"]) => fleet.set_balancer_refuses(name, None),
            ("clients", [instance, n]) => fleet.connect_clients(instance, number(n)?),
            ("load", [instance, percent]) => {
                let load = Load {
                    cpu_percent: number(percent)?,
                    ..Load::default()
                };
                fleet.set_load(instance, load);
            }
            ("share", [percent]) => fleet.share_load(&web(), number(percent)?),
            ("requests", [balancer, n]) => fleet.set_requests(balancer, number(n)?),
            ("sleep", [seconds]) => fleet.clock().sleep(Duration::from_secs(number(seconds)?)),
            ("call", [host, name]) => {
                let label = |text: &str| Label::new(text).map_err(|e| format!("{text}: {e}"));
                self.called.insert(label(host)?, label(name)?);
            }
            (_, [host, rest @ ..]) if self.hosts.iter().any(|(_, h)| h.as_str() == *host) => {
                return self.meddle(verb, host, rest);
            }
            (_, [host, ..])
                if !matches!(
                    verb,
                    "host"
                        | "kill-vmss"
                        | "revive"
                        | "sleep"
                        | "balancer"
                        | "clients"
                        | "load"
                        | "share"
                        | "requests"
                        | "network"
                ) =>
            {
                return Err(format!("there is no host {host}"));
            }
            _ => return Err(usage(verb)),
        }
        Ok(())
    }

    fn meddle(&self, verb: &str, host: &str, words: &[&str]) -> Result<(), String> {
        let fleet = &self.fleet;
        let inject = |fault| fleet.inject(host, fault);
        let one = |id: &str| Ok::<_, String>(Some(InstanceId(number(id)?)));
        let start = |instance| {
            Fault::Fails(Failure {
                instance,
                ..Failure::new(vmss::hypervisor::Stage::Start, FaultKind::Other)
            })
        };
        let there = |name: &str| {
            let is_there = fleet.domains(host).iter().any(|d| d.name == name);
            is_there
                .then_some(())
                .ok_or(format!("{host} has no domain {name}"))
        };
        match (verb, words) {
            ("kill", []) => inject(Fault::Down),
            ("reboot", []) => fleet.reboot(host),
            ("heal", []) => fleet.heal(host),
            ("power-cut", []) => inject(Fault::Dead),
            ("cut", []) => inject(Fault::CutGuests),
            ("hang", []) => inject(Fault::Hangs),
            ("die", ["after", n]) => inject(Fault::DiesAfter(number(n)?)),
            ("full", []) => fleet.fill_pool(host),
            ("full", ["unseen"]) => inject(Fault::no_space()),
            ("starts-fail", []) => inject(start(None)),
            ("starts-fail", [id]) => inject(start(one(id)?)),
            ("corrupt", []) => inject(Fault::corrupt_push()),
            ("cut-image", []) => fleet.cut_copies(host),
            ("deaf", []) => inject(Fault::IgnoresShutdown(None)),
            ("deaf", [id]) => inject(Fault::IgnoresShutdown(one(id)?)),
            ("slow", [seconds]) => inject(Fault::Slow(Duration::from_secs(number(seconds)?))),
            ("foreign", [name]) => fleet.add_foreign_domain(host, name, 1, Bytes::gib(1)),
            ("undefine", [name]) => {
                there(name)?;
                fleet.take_domain(host, name);
            }
            ("power-off", [name]) => {
                there(name)?;
                fleet.set_power(host, name, Power::Off);
            }
            ("crash", [name]) => {
                there(name)?;
                fleet.set_power(host, name, Power::Crashed);
            }
            ("unhealthy" | "healthy", [name]) => {
                there(name)?;
                fleet.set_unhealthy(host, name, verb == "unhealthy");
            }
            ("names", [name, addresses @ ..]) => {
                there(name)?;
                fleet.set_names(host, name, &all(addresses)?);
            }
            ("noted", [name, addresses @ ..]) => {
                there(name)?;
                fleet.set_noted_addresses(host, name, &all(addresses)?);
            }
            ("leases", [name, addresses @ ..]) => {
                there(name)?;
                fleet.set_leases(host, name, &all(addresses)?);
            }
            ("agent", [name, state]) => {
                there(name)?;
                let agent = match *state {
                    "broken" => Agent::Broken,
                    "absent" => Agent::Absent,
                    "well" => Agent::Well,
                    _ => return Err(usage(verb)),
                };
                fleet.set_agent(host, name, agent);
            }
            ("says", [name, words @ ..]) => {
                there(name)?;
                fleet.say(host, name, &words.join(" "));
            }
            ("rename", [name, new]) => {
                there(name)?;
                fleet.rename_domain(host, name, new);
            }
            ("copy", [name, to]) => {
                there(name)?;
                fleet.copy_domain(host, name, to, Power::Running);
            }
            ("copy", [name, to, "off"]) => {
                there(name)?;
                fleet.copy_domain(host, name, to, Power::Off);
            }
            ("forge", [name, of]) => fleet.forge_domain(host, name, of, id_in(name)?, Protection::None),
            ("forge", [name, of, "protected"]) => {
                fleet.forge_domain(host, name, of, id_in(name)?, Protection::All);
            }
            ("attach", [name, volume]) => {
                there(name)?;
                fleet.attach_volume(host, name, &self.volume(volume)?);
            }
            ("move", [name, to]) => {
                there(name)?;
                fleet.migrate_domain(host, name, to, false);
            }
            ("move", [name, to, "keeping"]) => {
                there(name)?;
                fleet.migrate_domain(host, name, to, true);
            }
            ("reinstall", []) => fleet.reinstall(host, false),
            ("reinstall", ["keeping"]) => fleet.reinstall(host, true),
            ("snapshot", [name]) => {
                there(name)?;
                fleet.snapshot_domain(host, name);
            }
            ("revert", [name]) => {
                there(name)?;
                if !fleet.revert_domain(host, name) {
                    return Err("there is no snapshot of it whose disks are there".into());
                }
            }
            ("lose-note", [name]) => {
                there(name)?;
                fleet.strip_note(host, name);
            }
            ("take-volume", [name]) => fleet.take_volume(host, name),
            ("backup-pool", []) => fleet.backup_pool(host),
            ("restore-pool", []) => fleet.restore_pool(host),
            ("alias", [name]) => fleet.call_host(host, name),
            ("pool-off", []) => fleet.lose_pool(host),
            ("pool-on", []) => fleet.find_pool(host),
            ("shares", [guest]) => fleet.share_pool(host, guest),
            ("refresh", []) => fleet.refresh(host),
            ("boots", [seconds]) => fleet.set_boot_takes(host, Duration::from_secs(number(seconds)?)),
            _ => match self.backups.meddle(fleet, host, verb, words) {
                Some(done) => done?,
                None => return Err(usage(verb)),
            },
        }
        Ok(())
    }

    /// The volume of that name; `of-NAME` is the OS disk of the domain called NAME.
    fn volume(&self, name: &str) -> Result<String, String> {
        let Some(of) = name.strip_prefix("of-") else {
            return Ok(name.to_owned());
        };
        let domains = self
            .hosts
            .iter()
            .flat_map(|(_, h)| self.fleet.domains(h.as_str()));
        let mut disks = domains.filter(|d| d.name == of).flat_map(|d| d.disks);
        disks
            .find(|v| v.ends_with("-os.qcow2"))
            .ok_or_else(|| format!("there is no domain {of} with an OS disk"))
    }

    /// What is on a host: its domains, and the volumes that lie in its pool, images and what is shared aside.
    pub fn on(&self, host: &str) -> String {
        let domains = self.fleet.domains(host);
        let mut lines: Vec<String> = (domains.iter())
            .map(|d| format!("{} {}", d.name, if d.is_active() { "runs" } else { "is off" }))
            .collect();
        let volumes = self.fleet.files(host);
        let own = volumes.iter().filter(|v| !v.name.starts_with("vmss-"));
        lines.extend(own.map(|v| v.name.clone()));
        lines.into_iter().map(|line| line + "\n").collect()
    }

    fn add_host(&mut self, domain: &str, name: &str, mut words: &[&str]) -> Result<(), String> {
        let label = |text: &str| Label::new(text).map_err(|e| format!("{text}: {e}"));
        let mut made_of = FakeHost::default();
        loop {
            words = match words {
                [] => break,
                ["cpus", n, rest @ ..] => {
                    made_of.cpus = number(n)?;
                    rest
                }
                ["memory", n, rest @ ..] => {
                    made_of.memory = size(n)?;
                    rest
                }
                ["pool", n, rest @ ..] => {
                    made_of.pool_size = size(n)?;
                    rest
                }
                ["without-kvm", rest @ ..] => {
                    made_of.kvm = false;
                    rest
                }
                ["lacks", network, rest @ ..] => {
                    made_of.lacks.insert((*network).to_owned());
                    rest
                }
                [other, ..] => return Err(format!("{other} is nothing a host is made of")),
            };
        }
        let (domain, name) = (label(domain)?, label(name)?);
        self.fleet.add_host(&name, made_of);
        self.hosts.push((domain, name));
        Ok(())
    }
}

/// The set of every scenario.
fn web() -> Label {
    Label::new("web").unwrap()
}

/// The id in an instance's name.
fn id_in(name: &str) -> Result<InstanceId, String> {
    let (_, id) = name.rsplit_once('-').ok_or(format!("{name} has no id"))?;
    Ok(InstanceId(number(id)?))
}

fn usage(verb: &str) -> String {
    let mut lines = COMMANDS
        .lines()
        .chain(super::daily::COMMANDS.lines())
        .filter(|l| l.split_whitespace().next() == Some(verb));
    format!("it goes like this: {}", lines.next().unwrap_or(COMMANDS))
}

fn all<T: std::str::FromStr<Err: std::fmt::Display>>(words: &[&str]) -> Result<Vec<T>, String> {
    words.iter().map(|word| number(word)).collect()
}

fn number<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|e| format!("{text}: {e}"))
}

pub(super) fn size(text: &str) -> Result<Bytes, String> {
    text.parse::<bytesize::ByteSize>()
        .map(|size| Bytes(size.as_u64()))
        .map_err(|e| format!("{text}: {e}"))
}
