use std::io::{Cursor, Read as _};
use std::net::Ipv4Addr;

use super::*;
use crate::hypervisor::domain_xml::samples::{model, spec};
use crate::model::UserData;

fn with(text: &str) -> Model {
    let mut model = model();
    model.user_data = Some(UserData {
        template: text.to_owned(),
        vars: [("role".to_owned(), "cache & web".to_owned())].into(),
    });
    model
}

fn file(spec: &InstanceSpec, model: &Model, name: &str) -> Option<String> {
    let disk = contents(spec, model).unwrap().unwrap();
    let system = fatfs::FileSystem::new(Cursor::new(disk), fatfs::FsOptions::new()).unwrap();
    let mut text = String::new();
    let mut file = system.root_dir().open_file(name).ok()?;
    file.read_to_string(&mut text).unwrap();
    Some(text)
}

#[test]
fn nothing_to_tell_is_no_seed() {
    assert_eq!(volume(&spec(), &model()), SeedVolume::None);
    assert_eq!(contents(&spec(), &model()), Ok(None));
}

#[test]
fn plain_user_data_is_shared_byte_for_byte() {
    let text = "#cloud-config\nruncmd: ['echo ${x} } { %']\r\n\n";
    let (one, mut two) = (spec(), spec());
    two.id = crate::names::InstanceId(9);
    two.uuid = Uuid::from_u128(99);
    let model = with(text);
    assert!(matches!(volume(&one, &model), SeedVolume::Shared(_)));
    assert_eq!(volume(&one, &model), volume(&two, &model));
    assert_eq!(contents(&one, &model), contents(&two, &model));
    assert_eq!(file(&one, &model, "user-data").as_deref(), Some(text));
    assert_eq!(file(&one, &model, "meta-data").as_deref(), Some("{}\n"));
    assert_eq!(file(&one, &model, "network-config"), None);
}

#[test]
fn a_template_is_rendered_per_instance() {
    let text = "name={{ instance.name }} id={{ instance.id }} fd={{ fault_domain }} host={{ host }} \
                set={{ scale_set.name }} rev={{ model.revision }} role={{ vars.role }}{# gone #}\n";
    let model = with(text);
    assert!(matches!(volume(&spec(), &model), SeedVolume::Own(_)));
    assert_eq!(
        file(&spec(), &model, "user-data").as_deref(),
        Some("name=web-3 id=3 fd=rack-a host=kvm1 set=web rev=2 role=cache & web\n")
    );
    let meta = file(&spec(), &model, "meta-data").unwrap();
    assert!(meta.contains("local-hostname: \"web-3\""), "{meta}");
}

#[test]
fn cloud_inits_own_templates_are_left_to_it() {
    let text = "## template: jinja\n#cloud-config\nx: {{ v1.region }}\n";
    assert_eq!(check_template(text), Ok(()));
    assert!(matches!(volume(&spec(), &with(text)), SeedVolume::Shared(_)));
    assert_eq!(file(&spec(), &with(text), "user-data").as_deref(), Some(text));
}

#[test]
fn a_broken_template_names_its_line_and_an_unknown_name_fails() {
    let error = check_template("a\nb {{ c\n").unwrap_err();
    assert!(error.starts_with("line "), "{error}");
    assert_eq!(check_template("{{ instance.name }}"), Ok(()));
    assert!(contents(&spec(), &with("{{ vars.missing }}")).is_err());
}

#[test]
fn fixed_addresses_are_written_with_their_cards() {
    let mut model = with("#cloud-config\n");
    let nic = |addresses| crate::model::Nic {
        source: crate::model::NicSource::Bridge("br0".to_owned()),
        gateway: Some(Ipv4Addr::new(10, 0, 0, 1)),
        dns: vec![Ipv4Addr::new(1, 1, 1, 1), Ipv4Addr::new(9, 9, 9, 9)],
        within: Vec::new(),
        addresses,
    };
    let range = crate::scaleset::AddressRange {
        first: Ipv4Addr::new(10, 0, 0, 10),
        last: Ipv4Addr::new(10, 0, 0, 99),
        prefix: 24,
    };
    model.networks = vec![nic(Some(range)), nic(None)];
    let mut spec = spec();
    spec.macs = vec!["02:00:00:00:00:01".to_owned(), "02:00:00:00:00:02".to_owned()];
    spec.addresses = vec![Some(Ipv4Addr::new(10, 0, 0, 12)), None];
    assert_eq!(
        file(&spec, &model, "network-config").as_deref(),
        Some(concat!(
            "version: 2\nethernets:\n",
            "  nic0:\n    match:\n      macaddress: \"02:00:00:00:00:01\"\n    dhcp4: false\n",
            "    addresses:\n      - \"10.0.0.12/24\"\n    gateway4: \"10.0.0.1\"\n",
            "    nameservers:\n      addresses:\n        - \"1.1.1.1\"\n        - \"9.9.9.9\"\n",
            "  nic1:\n    match:\n      macaddress: \"02:00:00:00:00:02\"\n    dhcp4: true\n",
        ))
    );
}

#[test]
fn only_this_stores_and_sets_seeds_are_ours() {
    let (ours, theirs) = (StoreId(Uuid::from_u128(1)), StoreId(Uuid::from_u128(2)));
    let web = Label::new("web").unwrap();
    let name = shared_name(ours, &web, 4, "0123456789abcdef");
    assert_eq!(parse_shared_name(ours, &web, &name), Some(4));
    assert_eq!(parse_shared_name(theirs, &web, &name), None);
    let longer = Label::new("web-r4").unwrap();
    let other = shared_name(ours, &longer, 4, "0123456789abcdef");
    assert_eq!(parse_shared_name(ours, &web, &other), None);
    assert_eq!(parse_shared_name(ours, &longer, &other), Some(4));
}
