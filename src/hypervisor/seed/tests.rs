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
    assert_eq!(checked(text), Ok(()));
    assert!(matches!(volume(&spec(), &with(text)), SeedVolume::Shared(_)));
    assert_eq!(file(&spec(), &with(text), "user-data").as_deref(), Some(text));
}

#[test]
fn a_broken_template_and_one_that_asks_for_what_is_not_there_name_their_line() {
    for (text, line) in [
        ("a\nb {{ c\n", "line "),
        ("a\nb {{ vars.missing }}\n", "line 2: undefined value"),
        ("{{ instance.nme }}", "line 1: undefined value"),
    ] {
        let error = checked(text).unwrap_err();
        assert!(error.starts_with(line), "{text:?}: {error}");
    }
    assert_eq!(checked("{{ instance.name }} {{ vars.role }}"), Ok(()));
    assert!(contents(&spec(), &with("{{ vars.missing }}")).is_err());
}

#[test]
fn a_template_is_tried_for_the_place_that_it_is_for() {
    let text = "{% if host == \"kvm9\" %}{{ vars.missing }}{% endif %}";
    let of = |host| {
        let user_data = with(text).user_data.unwrap();
        check_template(&user_data, &label("web"), &label("rack-a"), &label(host))
    };
    assert_eq!(of("kvm1"), Ok(()));
    assert!(of("kvm9").is_err());
}

#[test]
fn a_template_that_loops_or_grows_ends_and_is_to_blame_with_its_line() {
    let times = "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}";
    let doubled = "{% set n = namespace(x='a') %}{% for i in range(60) %}\n{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}";
    let repeated = "#cloud-config\n{{ 'a' * 99999999999 }}";
    for text in [times, doubled, repeated] {
        let error = checked(text).unwrap_err();
        assert!(error.starts_with("line "), "{text}: {error}");
        let on_the_host = contents(&spec(), &with(text)).unwrap_err().to_string();
        assert!(on_the_host.starts_with("user data: line "), "{on_the_host}");
    }
    let long = format!("{{% for i in range(9) %}}{}{{% endfor %}}", "x".repeat(2 << 20));
    assert!(checked(&long).unwrap_err().contains("more than 16.0 MiB"));
}

#[test]
fn a_template_of_any_depth_is_rendered_or_refused() {
    let chains = |n: usize| {
        [
            format!("{{{{ {}1 }}}}", "-".repeat(n)),
            format!("{{{{ {}1 }}}}", "not ".repeat(n / 4)),
            format!("{{{{ 1{} }}}}", "~1".repeat(n / 2)),
            format!("{{{{ vars{} }}}}", ".b".repeat(n / 2)),
            format!("{{{{ 1{} }}}}", "|e".repeat(n / 2)),
            format!("{{{{ {}1{} }}}}", "[".repeat(n / 2), "]".repeat(n / 2)),
            format!("{{{{ '}}}}'{} }}}}", "~1".repeat(n / 2)),
        ]
    };
    // What comes of it does not matter: that the process is there to tell does.
    for text in chains(LONGEST - 64) {
        let _ = checked(&text);
    }
    for text in chains(400_000) {
        let error = checked(&text).unwrap_err();
        assert_eq!(
            error,
            "line 1: its tag has more than 16384 bytes",
            "{}",
            &text[..20]
        );
    }
    let elifs = |n: usize| format!("{{% if 0 %}}{}\n{{% endif %}}", "\n{% elif 0 %}".repeat(n));
    assert_eq!(checked(&elifs(1000)), Ok(()));
    assert_eq!(
        checked(&elifs(100_000)).unwrap_err(),
        "line 1002: it has more than 1000 elif"
    );
    let loops = |n: usize| "{% if 1 %}".repeat(n) + &"{% endif %}".repeat(n);
    assert!(checked(&loops(20_000)).is_err());
}

const LONGEST: usize = 16 << 10;

#[test]
fn long_text_around_short_tags_is_no_long_tag() {
    let text = format!(
        "{{# it's {0} #}}{{{{ vars.role }}}}{0}{{% if vars.role == \"}}}}'\" %}}{0}{{% endif %}} {{ }} ' ",
        "x".repeat(20_000)
    );
    assert_eq!(checked(&text), Ok(()));
}

fn label(text: &str) -> Label {
    Label::new(text).unwrap()
}

fn checked(text: &str) -> Result<(), String> {
    let user_data = with(text).user_data.unwrap();
    check_template(&user_data, &label("web"), &label("rack-a"), &label("kvm1"))
}

#[test]
fn fixed_addresses_are_written_with_their_cards() {
    let mut model = with("#cloud-config\n");
    let nic = |addresses| crate::model::Nic {
        source: crate::model::NicSource::Bridge("br0".to_owned()),
        gateway: Some(Ipv4Addr::new(10, 0, 0, 1)),
        dns: vec![Ipv4Addr::new(1, 1, 1, 1), Ipv4Addr::new(9, 9, 9, 9)],
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
