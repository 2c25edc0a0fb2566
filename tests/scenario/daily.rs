//! The commands of a scenario for what operators do on an ordinary day.

use std::collections::BTreeMap;
use std::sync::Mutex;

use vmss::hypervisor::fake::{Backup, Fleet};
use vmss::units::Bytes;

/// The commands, as those of the stage.
pub const COMMANDS: &str = "\
edit HOST NAME memory SIZE    virsh edit: a domain has that much memory
strip HOST NAME              virsh edit: a domain's note is dropped
volume HOST NAME             somebody makes a volume of a GiB
moves HOST NAME TO-HOST      somebody migrates a domain as it runs, properly; its disks stay behind as well
reinstall HOST disks-kept    the host was set up anew: it has no domains
reinstall HOST disks-gone    it has no disks either
back-up HOST NAME            somebody makes a backup of a VM
put-back HOST NAME           the VM is again as it was backed up, disks and all
define-again HOST NAME       its definition is, with the disks that are there; it is off
other-folder HOST            its pool is another, empty folder; the guests have their disks in the old one";

/// Backups that somebody has made, by the domain's name.
#[derive(Default)]
pub struct Backups(Mutex<BTreeMap<String, Backup>>);

impl Backups {
    /// Does what the words say, for a domain that is there where one is named; `None` if they are none of these commands.
    pub fn meddle(
        &self,
        fleet: &Fleet,
        host: &str,
        verb: &str,
        words: &[&str],
    ) -> Option<Result<(), String>> {
        let there = |name: &str| {
            let is_there = fleet.domains(host).iter().any(|d| d.name == name);
            is_there
                .then_some(())
                .ok_or(format!("{host} has no domain {name}"))
        };
        let backup = |name: &str| {
            let backups = self.0.lock().unwrap();
            backups
                .get(name)
                .cloned()
                .ok_or(format!("there is no backup of {name}"))
        };
        let of_one = |name: &str, act: &dyn Fn()| there(name).map(|()| act());
        Some(match (verb, words) {
            ("edit", [name, "memory", size]) => match super::stage::size(size) {
                Ok(size) => of_one(name, &|| fleet.edit_memory(host, name, size)),
                Err(e) => Err(e),
            },
            ("strip", [name]) => of_one(name, &|| fleet.strip_note(host, name)),
            ("volume", [name]) => {
                fleet.add_foreign_volume(host, name, Bytes::gib(1));
                Ok(())
            }
            ("moves", [name, to]) => of_one(name, &|| fleet.move_domain(host, name, to)),
            ("reinstall", [disks @ ("disks-kept" | "disks-gone")]) => {
                fleet.reinstall(host, *disks == "disks-kept");
                Ok(())
            }
            ("back-up", [name]) => of_one(name, &|| {
                let backup = fleet.back_up(host, name);
                self.0.lock().unwrap().insert((*name).to_owned(), backup);
            }),
            ("put-back", [name]) => backup(name).map(|backup| fleet.put_back(host, &backup, true)),
            ("define-again", [name]) => backup(name).map(|backup| fleet.put_back(host, &backup, false)),
            ("other-folder", []) => {
                fleet.move_pool(host);
                Ok(())
            }
            _ => return None,
        })
    }
}
