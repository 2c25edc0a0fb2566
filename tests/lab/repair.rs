//! What the controller does about what breaks: a QEMU that is killed, a guest that hangs, hosts that are lost, only cut off,
//! and back.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Command, Stdio};

use super::{Lab, healthy_set, lab, said_by};
use crate::support::{Runs as _, wait_for};

/// `vmss run`, ended with the test.
struct Controller(Child);

impl Controller {
    fn on(lab: &Lab) -> Self {
        let log = fs::File::create(lab.folder.path().join("log")).unwrap();
        let child = lab
            .command("run --interval 2s")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

impl Lab {
    fn told(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Waits until the controller has told `what`.
    fn wait_told(&self, what: &str) {
        wait_for(&format!("the controller to say {what:?}"), || {
            self.told().contains(what)
        });
    }

    /// Sends a signal to an instance's QEMU.
    pub(super) fn signal(&self, host: &str, name: &str, signal: &str) {
        let pid = format!("/run/libvirt/qemu/{name}.pid");
        lab(&["exec", host, "sh", "-c", &format!("kill -{signal} $(cat {pid})")]);
    }

    /// Which host each instance is on, those on hosts out of sight too.
    fn places(&self) -> BTreeMap<u64, String> {
        let list = self.expect(0, "instances -o json").json();
        let one = |i: &serde_json::Value| Some((i["id"].as_u64()?, i["host"].as_str()?.to_owned()));
        list.as_array().unwrap().iter().filter_map(one).collect()
    }
}

#[test]
#[ignore = "needs the lab: tests/run"]
fn what_is_killed_hangs_is_lost_or_only_cut_off_is_each_dealt_with_as_the_rules_say() {
    // All at once, for the shortest times that a definition may name are a minute each.
    let repair =
        "[repair]\nenabled = true\ngrace_period = \"1m\"\nhost_lost_after = \"1m\"\nmax_unhealthy = \"100%\"";
    let lab = healthy_set(6, "", "3m", &format!("\n{repair}"));
    let before = lab.places();
    let on = |host: &str| -> Vec<u64> {
        let there = before.iter().filter(|(_, h)| *h == host);
        there.map(|(id, _)| *id).collect()
    };
    let [killed, hanging] = on("kvm1")[..] else {
        panic!("two on each: {before:?}")
    };
    let (served, lost) = (on("kvm2"), on("kvm3"));
    let serving = lab.addresses(6);
    let controller = Controller::on(&lab);
    lab.signal("kvm1", &format!("web-{killed}"), "KILL");
    // Not only its guest: whoever asks its QEMU waits as well.
    lab.signal("kvm1", &format!("web-{hanging}"), "STOP");
    self::lab(&["cut", "kvm2", "--management"]);
    self::lab(&["kill", "kvm3"]);

    lab.wait_told(&format!("start web-{killed}"));
    lab.wait_told("host kvm3 has been out of sight since");
    lab.wait_told("there still answer: left alone");
    let mut made = BTreeMap::new();
    wait_for("others in the place of what hangs and of what is lost", || {
        let mut now = lab.places();
        made = now.split_off(&7);
        made.len() == 3 && !now.contains_key(&hanging)
    });
    assert!(made.values().all(|host| host == "kvm1"), "{made:?}");
    for id in &served {
        let name = format!("web-{id}");
        let said = said_by(&name, &serving[&name]);
        assert!(said.starts_with(&name), "it serves: {said}");
    }

    self::lab(&["start", "kvm3"]);
    self::lab(&["heal", "kvm2"]);
    wait_for("the instances of kvm3 to be fenced", || {
        let names = lab.virsh("kvm3", &["list", "--all", "--name"]);
        lost.iter()
            .all(|id| !names.lines().any(|n| n == format!("web-{id}")))
    });
    lab.expect(0, "wait --for healthy");
    drop(controller);
    let told = lab.told();
    for id in &lost {
        let fenced = format!("kvm3: delete web-{id} (its host was given up");
        assert!(told.contains(&fenced), "{told}");
        assert!(
            !told.contains(&format!("start web-{id} ")),
            "a fenced one is not started: {told}"
        );
    }
    let replaced = told.matches("(repair: unhealthy since").count();
    assert_eq!(replaced, 1, "only what hangs is repaired: {told}");
    let now = lab.places();
    assert_eq!(now.len(), 6, "{now:?}");
    for id in served.iter().chain([&killed]) {
        assert_eq!(now.get(id), before.get(id), "it is where it was: {now:?}");
    }
    lab.expect(0, "delete --yes");
    lab.assert_no_trace();
}
