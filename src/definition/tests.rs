//! What is accepted, what is refused, and in which words.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::model::Cpu;

const GOOD: &str = r#"
name = "web"
[image]
source = "a.qcow2"
[instance]
memory = "1 GiB"
[[fault_domains]]
name = "a"
hosts = [{ name = "h1", uri = "qemu:///system" }]
"#;

fn problems(text: &str) -> Vec<String> {
    match parse(text, Path::new("/etc/vmss/web.toml")) {
        Ok(_) => Vec::new(),
        Err(e) => (e.errors.iter())
            .map(|p| {
                format!(
                    "{}:{} {}: {} | {}",
                    p.line,
                    p.column,
                    p.key,
                    p.message,
                    p.help.as_deref().unwrap_or("-")
                )
            })
            .collect(),
    }
}

#[test]
fn the_required_keys_are_enough() {
    let set = parse(GOOD, Path::new("/etc/vmss/web.toml")).unwrap();
    assert_eq!(set.capacity, 1);
    assert_eq!(set.hosts().count(), 1);
    assert_eq!(set.instance.cpu, Cpu::HostModel);
    assert!(
        matches!(&set.image, crate::scaleset::ImageSource::File { path, .. } if path == Path::new("/etc/vmss/a.qcow2"))
    );
}

#[test]
fn the_template_and_the_example_are_valid() {
    let set = parse(&template("shop"), Path::new("x.toml")).unwrap();
    assert_eq!(set.name.as_str(), "shop");
    let example = include_str!("../../scaleset.toml.example");
    if let Err(e) = parse(example, Path::new("scaleset.toml.example")) {
        panic!("{}", render(&e, example, false));
    }
}

#[test]
fn the_definitions_under_examples_are_valid() {
    let text = include_str!("../../examples/web.toml");
    let set =
        parse(text, Path::new("examples/web.toml")).unwrap_or_else(|e| panic!("{}", render(&e, text, false)));
    assert_eq!(set.hosts().count(), 3);
    let user_data = include_str!("../../examples/cloud-init.yaml");
    assert_eq!(crate::hypervisor::seed::check_template(user_data), Ok(()));
}

/// What an editor checks by the schema and what vmss accepts are the same.
#[test]
fn the_schema_accepts_the_examples_and_refuses_what_the_reader_refuses() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    let json = |text: &str| serde_json::to_value(toml::from_str::<toml::Value>(text).unwrap()).unwrap();
    for text in [
        GOOD,
        include_str!("../../scaleset.toml.example"),
        include_str!("init.toml"),
        include_str!("../../examples/web.toml"),
    ] {
        let errors: Vec<String> = validator
            .iter_errors(&json(text))
            .map(|e| e.to_string())
            .collect();
        assert_eq!(errors, Vec::<String>::new());
    }
    for change in [
        ("name = \"web\"", "name = \"We_b\""),
        ("memory = \"1 GiB\"", "memory = 1024"),
        ("memory = \"1 GiB\"", "memory = \"1 apple\""),
        ("memory = \"1 GiB\"", "memory = \"1 GiB\"\nclone = \"half\""),
        ("[image]", "capcity = 3\n[image]"),
    ] {
        let text = GOOD.replace(change.0, change.1);
        assert!(!validator.is_valid(&json(&text)), "{change:?}");
        assert!(parse(&text, Path::new("x.toml")).is_err(), "{change:?}");
    }
}

/// The example shows every key that the schema has, commented out or not.
#[test]
fn the_example_shows_every_key() {
    let example = include_str!("../../scaleset.toml.example");
    let schema = schema();
    let sections = schema["$defs"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .chain(["Definition".to_owned()]);
    for section in sections {
        for key in written::keys(&schema, &section) {
            let shown = [format!("{key} ="), format!("[{key}]"), format!("{key}]")]
                .iter()
                .any(|form| example.contains(form));
            assert!(shown, "{section}.{key} is missing from scaleset.toml.example");
        }
    }
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let text = r#"
name = "Web"
capcity = 3
[image]
source = "ftp://x/y"
[instance]
memory = 2048
vcpus = "two"
[[instance.networks]]
[[fault_domains]]
name = "a"
hosts = [
  { name = "h1", uri = "qemu:///system" },
  { name = "h2", uri = "qemu:///system" },
  { name = "h3", uri = "qemu+ext:///system?command=/bin/sh" },
]
[limits]
call_timeout = "1 fortnight"
"#;
    let found = problems(text);
    let expect = [
        "2:8 name: 'W' may not stand in a name",
        "3:1 capcity: unknown key \"capcity\" | did you mean capacity?",
        "5:10 image.source: images can't be fetched by ftp",
        "7:10 instance.memory: instance.memory is a string, not integer",
        "8:9 instance.vcpus: instance.vcpus is a whole number, not string",
        "9:1 instance.networks[0]: a network card needs a bridge or a network",
        "14:18 fault_domains[0].hosts[1].uri: h1 and h2 are one host",
        "15:24 fault_domains[0].hosts[2].uri: the scheme",
        "18:16 limits.call_timeout: \"1 fortnight\" is not a duration",
    ];
    assert_eq!(found.len(), expect.len(), "{found:#?}");
    for (found, expect) in found.iter().zip(expect) {
        assert!(found.starts_with(expect), "found    {found}\nexpected {expect}");
    }
}

#[test]
fn what_is_missing_is_named_with_an_example() {
    let found = problems("capacity = 2\n");
    assert_eq!(found.len(), 4, "{found:#?}");
    assert!(
        found
            .iter()
            .any(|f| f.contains("instance is missing | add it, for example: [instance]")),
        "{found:#?}"
    );
}

#[test]
fn rules_between_keys_hold() {
    for (change, message) in [
        (
            "[limits]\ncalls_per_host = 1\nstarts_per_host = 2",
            "starts_per_host is more than calls_per_host (1)",
        ),
        (
            "[limits]\ncalls_per_host = 9",
            "limits.calls_per_host is out of range | allowed: 1 to 4",
        ),
        (
            "[placement]\nvcpu_overcommit = -1",
            "vcpu_overcommit is out of range",
        ),
        (
            "[placement]\nspread = \"even\"",
            "may not be \"even\" | allowed: \"best-effort\", \"strict\"",
        ),
        (
            "[scale_in]\nshutdown = \"2h\"",
            "scale_in.shutdown is out of range",
        ),
        ("[state]\nstore = \"redis\"", "state.store may not be \"redis\""),
        ("[health]\nprobe = \"http\"", "unknown key \"health\""),
        (
            "[[instance.networks]]\nbridge = \"br0\"\ngateway = \"10.0.0.1\"",
            "a gateway goes with addresses",
        ),
        (
            "[[instance.networks]]\nbridge = \"br 0\"",
            "can't be the name of a bridge",
        ),
        (
            "[[instance.networks]]\nbridge = \"br0\"\naddresses = \"10.0.0.1-10.0.0.9/24\"\ngateway = \"10.0.0.5\"",
            "is one of the addresses handed out",
        ),
    ] {
        let found = problems(&format!("{GOOD}\n{change}\n"));
        assert!(
            found.len() == 1 && found[0].contains(message),
            "{change}\n{found:#?}"
        );
    }
}

#[test]
fn errors_are_shown_with_their_line() {
    let text = "name = \"web\"\nmemroy = 1\n";
    let errors = parse(text, Path::new("web.toml")).unwrap_err();
    let shown = render(&errors, text, false);
    assert!(shown.contains("web.toml:2:1"), "{shown}");
    assert!(shown.contains("memroy = 1"), "{shown}");
    assert!(shown.contains("^^^^^^"), "{shown}");
    assert!(shown.ends_with("web.toml has 4 errors\n"), "{shown}");
}

#[test]
fn broken_syntax_is_told_as_such() {
    let found = problems("name = \"web\n[image\n");
    assert!(!found.is_empty());
    assert!(found[0].starts_with("1:"), "{found:#?}");
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}") {
        if let Err(e) = parse(&text, Path::new("x.toml")) {
            render(&e, &text, false);
        }
    }

    /// Broken pieces of a good file: closer to what people get wrong than noise is.
    #[test]
    fn no_damaged_file_makes_it_panic(cut in 0usize..1000, put in "[\\[\\]{}=\"'#\n a-z0-9é]{0,6}") {
        let example = include_str!("../../scaleset.toml.example");
        let mut text = example.to_owned();
        let at = (0..=cut).rev().find(|i| text.is_char_boundary(*i)).unwrap();
        text.insert_str(at, &put);
        if let Err(e) = parse(&text, Path::new("x.toml")) {
            prop_assert!(!e.errors.is_empty());
            render(&e, &text, true);
        }
    }
}
