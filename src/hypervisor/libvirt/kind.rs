//! Kinds of calls, for metrics: few, and without anybody's name.

/// Beginnings of what is said to be done, and the kind of each; the first that fits counts.
const KINDS: &[(&str, &str)] = &[
    ("connecting", "connect"),
    ("moving", "migrate"),
    ("letting", "migrate"),
    ("listing domains", "list-domains"),
    ("listing", "list"),
    ("asking the guest agent", "agent"),
    ("running a command", "agent"),
    ("asking for the addresses", "addresses"),
    ("asking for", "host"),
    ("reading the host's", "host"),
    ("opening the console", "console"),
    ("reading the console", "console"),
    ("following the console", "console"),
    ("deleting the console", "console"),
    ("looking up domain", "read-domain"),
    ("measuring domains", "measure-domains"),
    ("looking at domain", "read-domain"),
    ("reading domain", "read-domain"),
    ("reading a snapshot", "read-domain"),
    ("listing the snapshots", "list-domains"),
    ("noting", "write-domain"),
    ("reading metadata", "read-domain"),
    ("writing metadata", "write-domain"),
    ("defining domain", "write-domain"),
    ("undefining domain", "delete-domain"),
    ("starting", "start-domain"),
    ("shutting down", "stop-domain"),
    ("switching off", "stop-domain"),
    ("stopping", "stop-domain"),
    ("restarting", "stop-domain"),
    ("looking up network", "network"),
    ("looking up pool", "read-pool"),
    ("looking at pool", "read-pool"),
    ("looking at the pool", "read-pool"),
    ("reading pool", "read-pool"),
    ("refreshing pool", "refresh-pool"),
    ("looking up", "read-volume"),
    ("looking at volume", "read-volume"),
    ("reading volume", "read-volume"),
    ("reading a volume", "read-volume"),
    ("creating volume", "create-volume"),
    ("growing", "grow-volume"),
    ("copying to volume", "copy-volume"),
    ("deleting volume", "delete-volume"),
    ("reading back", "transfer"),
    ("writing volume", "transfer"),
    ("sending", "transfer"),
    ("creating", "write-domain"),
    ("changing", "write-domain"),
    ("deleting", "delete-domain"),
];

/// The kind of a call that does what `doing` says.
pub fn kind(doing: &str) -> &'static str {
    let found = KINDS.iter().find(|(beginning, _)| doing.starts_with(beginning));
    found.map_or("other", |(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    #[test]
    fn names_are_no_part_of_a_kind() {
        assert_eq!(
            kind("looking up volume web-1-00000000-os.qcow2 in pool a"),
            "read-volume"
        );
        assert_eq!(kind("looking up domain volume"), "read-domain");
        assert_eq!(
            kind("growing, under its guest, volume a in pool b"),
            "grow-volume"
        );
        assert_eq!(kind("moving web-1 from a to b"), "migrate");
        assert_eq!(kind("something that nobody has thought of"), "other");
    }

    fn files(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => files(&path, found),
                false => found.push(path),
            }
        }
    }

    /// A call that is added to this folder must not be forgotten here.
    #[test]
    fn every_call_has_a_kind() {
        let (mut paths, mut found) = (Vec::new(), 0);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/hypervisor/libvirt");
        files(&folder, &mut paths);
        for path in paths {
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            let says = |line: &&str| {
                ["call(", "call_w", "doing", "format_args!"]
                    .iter()
                    .any(|w| line.contains(w))
            };
            let texts = code
                .lines()
                .filter(says)
                .flat_map(|l| l.split('"').skip(1).step_by(2));
            for text in texts {
                let is_work = text
                    .split_once(' ')
                    .is_some_and(|(first, _)| first.ends_with("ing"));
                // Neither making XML nor reading a local file asks anybody.
                if is_work && text != "describing volume" && !text.contains("the file") {
                    found += 1;
                    assert_ne!(kind(text), "other", "{text:?} in {}", path.display());
                }
            }
        }
        assert!(found > 40, "only {found} texts were found");
    }
}
