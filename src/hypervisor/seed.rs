//! The seed: a small FAT volume labelled `cidata`, from which cloud-init's NoCloud source takes who the guest is.
//!
//! An instance whose user data is the same for all, and whose addresses come from DHCP, reads a seed that it shares with
//! the others of its set, revision and host: its name comes from its SMBIOS serial. Any other has a seed of its own.

use std::io::{Cursor, Write as _};

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior, context};
use uuid::Uuid;

use crate::model::Model;
use crate::names::{Label, StoreId, volume_name};
use crate::plan::action::InstanceSpec;

/// A seed volume's name and content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// Its name in the pool.
    pub volume: String,
    /// Whether other instances read it too.
    pub shared: bool,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Name of the seed that instances of one revision share on a host.
pub fn shared_name(set: &Label, store: StoreId, revision: u32, model_hash: &str) -> String {
    let tag = Uuid::new_v5(&store.0, format!("{set}/r{revision}/{model_hash}").as_bytes())
        .simple()
        .to_string();
    format!("vmss-seed-{set}-r{revision}-{}-{model_hash}.img", &tag[..8])
}

/// The revision of a shared seed of this set and store; `None` for any other volume.
pub fn parse_shared_name(set: &Label, store: StoreId, name: &str) -> Option<u32> {
    let rest = name.strip_prefix(&format!("vmss-seed-{set}-r"))?;
    let (revision, rest) = rest.split_once('-')?;
    let (_, hash) = rest.strip_suffix(".img")?.split_once('-')?;
    let revision = revision.parse().ok()?;
    (shared_name(set, store, revision, hash) == name).then_some(revision)
}

/// Whether a text is rendered: it has a template's tags, and is not written for cloud-init's own templates.
fn is_template(text: &str) -> bool {
    !text.starts_with("## template: jinja") && ["{{", "{%", "{#"].iter().any(|tag| text.contains(tag))
}

/// Checks the syntax of user data that would be rendered.
///
/// # Errors
/// What is wrong, with its line.
pub fn check_template(text: &str) -> Result<(), String> {
    if !is_template(text) {
        return Ok(());
    }
    environment()
        .template_from_str(text)
        .map(|_| ())
        .map_err(|e| e.to_string())
}

fn environment<'a>() -> Environment<'a> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
    environment.set_syntax(syntax.expect("the usual delimiters are a valid syntax"));
    environment
}

fn render(template: &str, spec: &InstanceSpec, model: &Model) -> Result<String, String> {
    let vars = model.user_data.as_ref().map(|u| &u.vars);
    let values = context! {
        instance => context! { id => spec.id.0, name => spec.name() },
        fault_domain => spec.fault_domain.as_str(),
        host => spec.host.as_str(),
        scale_set => context! { name => spec.set.as_str() },
        model => context! { revision => spec.revision },
        vars => vars,
    };
    environment()
        .render_str(template, values)
        .map_err(|e| format!("rendering the user data: {e}"))
}

/// The NoCloud form of the system serial: name and id without a seed of its own.
pub fn serial(spec: &InstanceSpec) -> String {
    format!("ds=nocloud;h={};i={}", spec.name(), instance_id(spec))
}

fn instance_id(spec: &InstanceSpec) -> String {
    format!("{}-{}", spec.name(), &spec.uuid.simple().to_string()[..8])
}

/// The seed of an instance.
///
/// # Errors
/// A sentence, if its user data can't be rendered.
pub fn seed(spec: &InstanceSpec, model: &Model) -> Result<Seed, String> {
    let template = model.user_data.as_ref().map(|u| u.template.as_str());
    let own = template.is_some_and(is_template) || spec.addresses.iter().any(Option::is_some);
    let user_data = match template {
        None => "#cloud-config\n{}\n".to_owned(),
        Some(text) if is_template(text) => render(text, spec, model)?,
        Some(text) => text.to_owned(),
    };
    let mut files = vec![("user-data", user_data)];
    if own {
        files.push((
            "meta-data",
            format!(
                "instance-id: {}\nlocal-hostname: {}\n",
                instance_id(spec),
                spec.name()
            ),
        ));
        if !spec.macs.is_empty() {
            files.push(("network-config", network_config(spec, model)));
        }
    } else {
        // Both files must exist; what this one leaves out comes from the serial.
        files.push(("meta-data", String::new()));
    }
    let volume = if own {
        volume_name(&spec.set, spec.id, spec.uuid, "seed", "img")
    } else {
        shared_name(&spec.set, spec.store, spec.revision, &spec.model_hash)
    };
    let bytes = volume_bytes(&files).map_err(|e| format!("making the seed: {e}"))?;
    Ok(Seed {
        volume,
        shared: !own,
        bytes,
    })
}

/// Network configuration of version 2. Every value is an address, a MAC or a number, so nothing needs quoting but the
/// MAC, which YAML could take for a number in base 60.
fn network_config(spec: &InstanceSpec, model: &Model) -> String {
    let mut text = "version: 2\nethernets:\n".to_owned();
    for (i, ((mac, address), nic)) in spec
        .macs
        .iter()
        .zip(&spec.addresses)
        .zip(&model.networks)
        .enumerate()
    {
        text += &format!("  nic{i}:\n    match:\n      macaddress: \"{mac}\"\n");
        match (address, &nic.addresses) {
            (Some(address), Some(range)) => {
                text += &format!("    addresses:\n      - {address}/{}\n", range.prefix);
                if let Some(gateway) = nic.gateway {
                    text += &format!("    gateway4: {gateway}\n");
                }
                if !nic.dns.is_empty() {
                    text += "    nameservers:\n      addresses:\n";
                    for server in &nic.dns {
                        text += &format!("        - {server}\n");
                    }
                }
            }
            _ => text += "    dhcp4: true\n",
        }
    }
    text
}

fn volume_bytes(files: &[(&str, String)]) -> std::io::Result<Vec<u8>> {
    let content: usize = files.iter().map(|(_, text)| text.len()).sum();
    // Room for the tables and for a last cluster per file; whole sectors.
    let size = (content + content / 8 + (128 << 10)).next_multiple_of(64 << 10);
    let mut disk = Cursor::new(vec![0; size]);
    let options = fatfs::FormatVolumeOptions::new()
        .volume_label(*b"cidata     ")
        .volume_id(0x766d_7373);
    fatfs::format_volume(&mut disk, options)?;
    {
        let options = fatfs::FsOptions::new().time_provider(&NO_TIME);
        let volume = fatfs::FileSystem::new(&mut disk, options)?;
        let root = volume.root_dir();
        for (name, text) in files {
            root.create_file(name)?.write_all(text.as_bytes())?;
        }
    }
    Ok(disk.into_inner())
}

/// The same seed has the same bytes whenever it is made, so that a half-written one can be told by comparison.
#[derive(Debug)]
struct NoTime;
static NO_TIME: NoTime = NoTime;

impl fatfs::TimeProvider for NoTime {
    fn get_current_date(&self) -> fatfs::Date {
        fatfs::Date {
            year: 1980,
            month: 1,
            day: 1,
        }
    }
    fn get_current_date_time(&self) -> fatfs::DateTime {
        fatfs::DateTime {
            date: self.get_current_date(),
            time: fatfs::Time {
                hour: 0,
                min: 0,
                sec: 0,
                millis: 0,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NicSource, UserData};
    use crate::names::{InstanceId, instance_uuid, mac_address};
    use crate::plan::testing::{STORE, at, label, model};
    use std::io::Read as _;

    fn spec(model: &Model) -> InstanceSpec {
        let (set, id) = (label("web"), InstanceId(3));
        InstanceSpec {
            uuid: instance_uuid(STORE, &set, id),
            macs: (0..model.networks.len())
                .map(|n| mac_address(&set, id, n))
                .collect(),
            addresses: vec![None; model.networks.len()],
            set,
            store: STORE,
            id,
            host: label("kvm1"),
            fault_domain: label("rack-a"),
            revision: 2,
            model_hash: model.hash(),
            image: model.image.digest.clone(),
            created_at: at(0),
        }
    }

    fn file(seed: &Seed, name: &str) -> String {
        let volume =
            fatfs::FileSystem::new(Cursor::new(seed.bytes.clone()), fatfs::FsOptions::new()).unwrap();
        assert_eq!(volume.volume_label().trim(), "cidata");
        let mut text = String::new();
        volume
            .root_dir()
            .open_file(name)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        text
    }

    fn with_user_data(template: &str) -> Model {
        let vars = [("greeting".to_owned(), "héllo".to_owned())].into();
        Model {
            user_data: Some(UserData {
                template: template.into(),
                vars,
            }),
            ..model()
        }
    }

    #[test]
    fn user_data_without_tags_arrives_byte_for_byte_and_is_shared() {
        let text = "#cloud-config\n# \"quotes\" 'single' & < > ]]> ü \t end\r\nx: }}%}\n\n";
        let model = with_user_data(text);
        let seed = seed(&spec(&model), &model).unwrap();
        assert!(seed.shared);
        assert_eq!(file(&seed, "user-data"), text);
        assert_eq!(file(&seed, "meta-data"), "");
        assert_eq!(parse_shared_name(&label("web"), STORE, &seed.volume), Some(2));
        assert_eq!(parse_shared_name(&label("we"), STORE, &seed.volume), None);
        assert_eq!(
            seed,
            super::seed(&spec(&model), &model).unwrap(),
            "the same bytes every time"
        );
    }

    #[test]
    fn a_template_is_rendered_for_each_instance() {
        let model = with_user_data(
            "{{ vars.greeting }} {{ instance.name }} {{ fault_domain }} {{ host }} r{{ model.revision }}\n",
        );
        let seed = seed(&spec(&model), &model).unwrap();
        assert!(!seed.shared);
        assert_eq!(file(&seed, "user-data"), "héllo web-3 rack-a kvm1 r2\n");
        assert!(file(&seed, "meta-data").contains("local-hostname: web-3\n"));
    }

    #[test]
    fn what_is_unknown_in_a_template_is_an_error_and_cloud_inits_own_are_left_alone() {
        let model = with_user_data("{{ nonsense }}");
        assert!(seed(&spec(&model), &model).unwrap_err().contains("undefined"));
        assert!(check_template("{{ x").is_err());
        assert!(check_template("x }}").is_ok());
        let model = with_user_data("## template: jinja\n{{ ds.meta_data }}");
        assert!(seed(&spec(&model), &model).unwrap().shared);
    }

    #[test]
    fn assigned_addresses_go_into_a_seed_of_its_own() {
        let mut model = model();
        let range = crate::scaleset::AddressRange {
            first: "10.0.0.10".parse().unwrap(),
            last: "10.0.0.20".parse().unwrap(),
            prefix: 24,
        };
        model.networks = vec![crate::model::Nic {
            source: NicSource::Bridge("br0".into()),
            addresses: Some(range),
            gateway: Some("10.0.0.1".parse().unwrap()),
            dns: vec!["10.0.0.2".parse().unwrap()],
        }];
        let mut spec = spec(&model);
        spec.addresses = vec![Some("10.0.0.12".parse().unwrap())];
        let seed = seed(&spec, &model).unwrap();
        assert!(!seed.shared);
        let mac = &spec.macs[0];
        assert_eq!(
            file(&seed, "network-config"),
            format!(
                "version: 2\nethernets:\n  nic0:\n    match:\n      macaddress: \"{mac}\"\n    addresses:\n      - 10.0.0.12/24\n    \
                 gateway4: 10.0.0.1\n    nameservers:\n      addresses:\n        - 10.0.0.2\n"
            )
        );
    }

    #[test]
    fn large_user_data_fits() {
        let model = with_user_data(&"x".repeat(3 << 20));
        assert_eq!(
            file(&seed(&spec(&model), &model).unwrap(), "user-data").len(),
            3 << 20
        );
    }
}
