//! What every [`Hypervisor`] must do, as named situations. Run against libvirt's simulation, against a real host, and
//! against the fake, so that what scenarios learn from the fake holds on libvirt.

#![allow(
    dead_code,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "each test program that includes the contract uses a part of it"
)]

mod changes;
mod images;
mod instances;
mod owners;
mod power;

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use vmss::epoch::Epoch;
use vmss::hypervisor::{
    FaultKind, Hypervisor, HypervisorError, LocalImage, News, Pulse, Rework, Stage, Uses, Watch,
};
use vmss::inventory::{HostSeen, Instance};
use vmss::model::{DataDisk, ImageDigest, ImageFormat, Model, NicSource, UserData};
use vmss::names::{InstanceId, Label, StoreId, instance_uuid, mac_address};
use vmss::plan::action::{InstanceRef, InstanceSpec};
use vmss::units::Bytes;

/// What a situation has to work with: a store and a set of its own on a host where it is alone, or at least the
/// only one to use that set's name.
#[derive(Clone)]
pub struct Fixture {
    /// The store.
    pub store: StoreId,
    /// The set.
    pub set: Label,
    /// A model that the host can run.
    pub model: Model,
    /// The model's image as a file.
    pub image: LocalImage,
}

impl Fixture {
    /// A fixture for a host that runs instances of `model`, of the image in `image`. Its set is named for the
    /// situation, its store is new.
    pub fn new(situation: &str, model: &Model, image: &LocalImage) -> Self {
        let store = StoreId(Uuid::new_v4());
        let tail = &store.0.simple().to_string()[..6];
        let name: String = situation.replace('_', "-").chars().take(24).collect();
        Self {
            store,
            set: label(&format!("{}-{tail}", name.trim_end_matches('-'))),
            model: model.clone(),
            image: image.clone(),
        }
    }

    /// An instance of the fixture's model.
    pub fn spec(&self, id: u64) -> InstanceSpec {
        self.spec_of(id, &self.model)
    }

    /// An instance of another model.
    pub fn spec_of(&self, id: u64, model: &Model) -> InstanceSpec {
        let id = InstanceId(id);
        let cards = model.networks.len();
        InstanceSpec {
            set: self.set.clone(),
            store: self.store,
            id,
            uuid: instance_uuid(self.store, &self.set, id),
            host: label("kvm1"),
            fault_domain: label("rack-a"),
            revision: 1,
            model_hash: model.hash(),
            image: model.image.digest.clone(),
            created_at: "2026-03-04T05:06:07Z".parse().unwrap(),
            macs: (0..cards)
                .map(|n| mac_address(&self.set, id, instance_uuid(self.store, &self.set, id), n))
                .collect(),
            addresses: vec![None; cards],
            protection: vmss::inventory::Protection::None,
            epoch: Epoch::default(),
        }
    }

    /// The same instance in its second revision, of another model, as a plan made later would have it.
    pub fn second(&self, id: u64, model: &Model) -> InstanceSpec {
        InstanceSpec {
            revision: 2,
            created_at: "2026-04-05T06:07:08Z".parse().unwrap(),
            ..self.spec_of(id, model)
        }
    }

    /// The fixture with another image, which is its own to send and to clean away. On a host that looks at bytes it
    /// is the fixture's with more at its end, which boots as well. Nobody else has sent it.
    pub fn with_another_image(&self) -> (Self, Option<tempfile::TempDir>) {
        let mut other = self.clone();
        let Ok(mut bytes) = std::fs::read(&self.image.path) else {
            other.image.image.digest = ImageDigest(self.store.0.simple().to_string().repeat(2));
            other.model.image = other.image.image.clone();
            return (other, None);
        };
        let more = self.store.0.as_bytes().repeat(256);
        bytes.extend(more);
        let folder = tempfile::tempdir().unwrap();
        other.image.path = folder.path().join("another");
        std::fs::write(&other.image.path, &bytes).unwrap();
        let image = &mut other.image.image;
        let hex = Sha256::digest(&bytes)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        image.digest = ImageDigest(hex);
        image.file_size = Bytes(bytes.len() as u64);
        if image.format == ImageFormat::Raw {
            image.virtual_size = image.file_size;
        }
        other.model.image = image.clone();
        (other, Some(folder))
    }

    /// The fixture's model with user data.
    pub fn with_user_data(&self, text: &str) -> Model {
        Model {
            user_data: Some(UserData {
                template: text.to_owned(),
                vars: [("role".to_owned(), "web".to_owned())].into(),
            }),
            ..self.model.clone()
        }
    }

    /// The fixture's model with data disks.
    pub fn with_disks(&self, names: &[&str]) -> Model {
        let disk = |name: &&str| DataDisk {
            name: label(name),
            size: Bytes::mib(64),
        };
        Model {
            data_disks: names.iter().map(disk).collect(),
            ..self.model.clone()
        }
    }

    /// What the host shows of the fixture's set.
    pub fn seen(&self, host: &dyn Hypervisor) -> HostSeen {
        host.observe(&watch(&self.set, self.store))
            .expect("the host is there")
    }

    /// The one instance with that id.
    pub fn instance(&self, host: &dyn Hypervisor, id: u64) -> Option<Instance> {
        let mut found = self.seen(host).instances;
        found.retain(|i| i.id == InstanceId(id));
        assert!(found.len() < 2, "id {id} is there twice");
        found.pop()
    }

    /// Sends the image.
    pub fn push(&self, host: &dyn Hypervisor) {
        host.push_image(&self.image, self.store, &Pulse::silent())
            .expect("the image goes to the pool");
    }

    /// Makes an instance of the fixture's model, its image first.
    pub fn create(&self, host: &dyn Hypervisor, id: u64) -> InstanceRef {
        let model = self.model.clone();
        self.create_of(host, id, &model)
    }

    /// Makes an instance of another model.
    pub fn create_of(&self, host: &dyn Hypervisor, id: u64, model: &Model) -> InstanceRef {
        self.push(host);
        let spec = self.spec_of(id, model);
        host.create(&spec, model, &Pulse::silent())
            .unwrap_or_else(|e| panic!("creating {}: {e}", spec.name()));
        spec.reference()
    }

    /// Changes an instance to its second revision, without asking its guest.
    pub fn rework(&self, host: &dyn Hypervisor, id: u64, model: &Model, how: Rework) {
        let spec = self.second(id, model);
        host.rework(&spec, model, how, Duration::ZERO, &uses(host), &Pulse::silent())
            .unwrap_or_else(|e| panic!("changing {}: {e}", spec.name()));
    }

    /// Deletes an instance without asking its guest.
    pub fn delete(&self, host: &dyn Hypervisor, instance: &InstanceRef) {
        host.delete(instance, Duration::ZERO, &uses(host), &Pulse::silent())
            .unwrap_or_else(|e| panic!("deleting {}: {e}", instance.name));
    }

    /// Leaves nothing of the situation behind.
    pub fn clean(&self, host: &dyn Hypervisor) {
        for instance in self.seen(host).instances {
            let reference = InstanceRef {
                set: self.set.clone(),
                store: instance.meta.store,
                id: instance.id,
                name: format!("{}-{}", self.set, instance.id),
                uuid: instance.uuid,
                epoch: Epoch::default(),
            };
            self.delete(host, &reference);
        }
        let seen = self.seen(host);
        for volume in seen
            .unowned()
            .iter()
            .chain(seen.seeds.iter().map(|(_, name)| name))
        {
            host.delete_volume(volume, &uses(host))
                .expect("a volume of ours goes");
        }
        host.delete_image(&self.model.image.digest, &[self.store])
            .expect("nothing uses the image any more, or somebody else's does");
    }
}

/// A situation: its name and what must hold in it.
pub type Situation = (&'static str, fn(&dyn Hypervisor, &Fixture));

macro_rules! situations {
    ($($module:ident :: $name:ident),* $(,)?) => {
        /// Every situation of the contract.
        pub const SITUATIONS: &[Situation] = &[$((stringify!($name), $module::$name)),*];
    };
}

situations![
    instances::a_host_without_the_set_shows_nothing_of_it,
    instances::a_created_instance_runs_and_tells_its_facts,
    instances::creating_again_changes_nothing,
    instances::without_its_image_nothing_is_created,
    instances::a_cancelled_create_is_undone_by_delete,
    instances::a_cancelled_create_is_finished_by_create,
    instances::a_create_cancelled_at_any_stage_can_be_undone_and_finished,
    instances::deleting_leaves_nothing_and_may_be_repeated,
    instances::starting_what_runs_or_is_gone,
    instances::several_at_once,
    instances::disks_and_seed_go_with_their_instance,
    instances::a_shared_seed_is_seen_and_outlives_its_instances,
    instances::what_is_promised_is_counted,
    instances::news_come_in_order,
    instances::facts_and_check,
    instances::stats_of_running_instances,
    changes::a_reimaged_instance_keeps_its_identity_and_data_disks_and_has_a_new_os_disk,
    changes::a_restart_with_more_memory_keeps_the_disks,
    changes::a_restart_brings_new_data_disks_and_grows_old_ones,
    changes::a_live_change_grows_disks_under_a_running_guest,
    changes::a_change_cancelled_at_any_stage_can_be_finished_and_deleted,
    changes::whoever_goes_on_with_a_change_does_no_less,
    changes::a_half_changed_instance_is_seen_and_neither_created_nor_started,
    changes::a_change_to_an_image_that_is_not_there_leaves_the_instance_as_it_was,
    changes::an_image_that_is_being_changed_to_stays,
    changes::a_disk_that_is_not_wanted_any_more_goes_at_the_end,
    changes::a_full_clone_is_reimaged_too,
    changes::a_disk_that_somebody_has_taken_away_is_not_made_anew,
    changes::what_is_gone_can_not_be_changed,
    power::stopping_is_noted_and_starting_takes_the_note_back,
    power::a_copy_goes_without_its_volumes,
    power::a_stopped_instance_is_changed_and_stays_off,
    power::a_restarted_instance_is_as_it_was,
    power::protection_is_noted_and_kept_through_a_reimage,
    power::an_agent_that_can_not_answer_is_told_apart,
    power::a_guest_runs_commands_or_says_why_not,
    power::a_console_opens_or_says_why_not,
    power::a_console_log_is_kept_as_long_as_its_instance,
    images::an_image_is_sent_once,
    images::an_image_in_use_stays,
    images::an_image_of_another_store_serves_too,
    images::an_image_volume_is_not_deleted_as_a_leftover,
    images::an_image_is_never_taken_from_under_an_instance,
    owners::another_stores_instance_is_left_alone,
    owners::another_stores_instance_is_changed_by_nothing,
    owners::another_stores_instance_is_shown_as_such,
    owners::adopted_instances_obey_their_new_store,
];

/// A situation on a host that two processes have open: its name and what must hold in it.
pub type Shared = (&'static str, fn([&dyn Hypervisor; 2], &Fixture));

/// Every situation that takes two processes.
pub const SHARED: &[Shared] = &[(
    "a_shared_seed_that_another_process_deletes_is_made_anew",
    instances::a_shared_seed_that_another_process_deletes_is_made_anew,
)];

/// Runs every situation on a host, each with a set of its own, and cleans up after it. The host is given as two
/// processes have it open.
pub fn run(processes: [&dyn Hypervisor; 2], model: &Model, image: &LocalImage) {
    let [host, _] = processes;
    let alone = |name: &str, situation: &dyn Fn(&Fixture)| {
        let began = std::time::Instant::now();
        let fixture = Fixture::new(name, model, image);
        situation(&fixture);
        fixture.clean(host);
        let seen = fixture.seen(host);
        assert!(
            seen.instances.is_empty() && seen.unowned().is_empty() && seen.seeds.is_empty(),
            "{name} left something: {seen:?}"
        );
        println!("{name}: {:.2?}", began.elapsed());
    };
    for (name, situation) in SITUATIONS {
        alone(name, &|fixture| situation(host, fixture));
    }
    for (name, situation) in SHARED {
        alone(name, &|fixture| situation(processes, fixture));
    }
}

/// A label.
pub fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

/// A network card on a libvirt network.
pub fn on_network(name: &str) -> vmss::model::Nic {
    vmss::model::Nic {
        source: NicSource::Network(name.to_owned()),
        addresses: None,
        gateway: None,
        dns: Vec::new(),
        within: Vec::new(),
    }
}

/// Waits until it is so: for what a guest does by itself.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(120);
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "{what}: it never came");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The kind of the failure that is expected.
pub fn kind<T: std::fmt::Debug>(result: Result<T, HypervisorError>) -> FaultKind {
    result.expect_err("this must fail").kind
}

/// A pulse that is cancelled when that stage begins.
pub fn cancelled_at(at: Stage) -> Arc<Pulse> {
    Arc::new_cyclic(|pulse: &std::sync::Weak<Pulse>| {
        let pulse = pulse.clone();
        Pulse::new(move |news| {
            if let (News::Stage(stage), Some(pulse)) = (news, pulse.upgrade())
                && stage == at
            {
                pulse.cancel();
            }
        })
    })
}

/// What a look is for, by those who ask for nothing in particular.
pub fn watch(set: &Label, store: StoreId) -> Watch {
    Watch {
        set: set.clone(),
        stores: vec![store],
        uuids: std::collections::HashSet::new(),
    }
}

/// Who uses what on a host; nothing of one that can't tell.
pub fn uses(host: &dyn Hypervisor) -> Uses {
    host.uses(&Pulse::silent()).unwrap_or_default()
}
