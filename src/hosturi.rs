//! Which libvirt URIs are allowed.
//!
//! A libvirt URI can run code: `command=` runs a local program, `socket=` of an ssh URI enters a remote shell command
//! unescaped, `netcat=` names a remote program, `no_verify=` switches off host keys. A definition may come from a
//! repository that many can write to, so schemes and parameters are allowed by name, and nothing else is.

use url::Url;

/// What is allowed, in a sentence.
pub const ALLOWED: &str = "qemu:///system, qemu+ssh://user@host/system, qemu+tls://host/system, qemu+unix:///system?socket=/path; \
                           parameters: socket (unix), keyfile, known_hosts, sshauth (ssh), pkipath, tls_priority (tls)";

/// Why a URI is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostUriError {
    /// Not a URI.
    #[error("{0:?} is not a libvirt URI: {1}")]
    Malformed(String, String),
    /// The scheme is not on the list.
    #[error("the scheme {scheme:?} is not allowed: {why}")]
    Scheme {
        /// The scheme.
        scheme: String,
        /// Why it is not.
        why: &'static str,
    },
    /// A parameter is not on the list.
    #[error("the parameter {name:?} is not allowed here: {why}")]
    Parameter {
        /// The parameter.
        name: String,
        /// Why it is not.
        why: &'static str,
    },
    /// A parameter's value, the user or the host has characters that could mean something to a shell.
    #[error("{what} may not be {value:?}: letters, digits and . _ - / : @ only, not beginning with -")]
    Unsafe {
        /// Which part.
        what: String,
        /// What it holds.
        value: String,
    },
    /// A part that this scheme needs or can't have.
    #[error("{0}")]
    Shape(&'static str),
}

/// Checks a URI against the list.
///
/// # Errors
/// The first rule that it breaks.
pub fn check(uri: &str) -> Result<(), HostUriError> {
    let url = Url::parse(uri).map_err(|e| HostUriError::Malformed(uri.to_owned(), e.to_string()))?;
    let scheme = url.scheme();
    let (driver, transport) = scheme.split_once('+').unwrap_or((scheme, ""));
    let refuse = |why| {
        Err(HostUriError::Scheme {
            scheme: scheme.to_owned(),
            why,
        })
    };
    match driver {
        "qemu" | "test" => {}
        "lxc" | "xen" | "vbox" | "bhyve" | "ch" | "esx" | "hyperv" | "vz" => {
            return refuse("scale sets are made of QEMU/KVM guests");
        }
        _ => return refuse("it is no libvirt driver that vmss knows"),
    }
    match transport {
        "" | "unix" | "ssh" | "tls" => {}
        "ext" => return refuse("it runs a program named in the URI"),
        "tcp" => return refuse("it is neither encrypted nor authenticated; use ssh or tls"),
        "libssh" | "libssh2" => return refuse("its host key checks can be switched off from afar; use ssh"),
        _ => return refuse("it is no transport that vmss knows"),
    }
    let host = url.host_str().unwrap_or("");
    match (transport, host.is_empty()) {
        ("ssh" | "tls", true) => {
            return Err(HostUriError::Shape(
                "ssh and tls need a host: qemu+ssh://user@host/system",
            ));
        }
        ("" | "unix", false) if driver == "qemu" || transport == "unix" => {
            return Err(HostUriError::Shape(
                "a local URI has no host: write qemu:///system, or qemu+ssh://host/system for another machine",
            ));
        }
        _ => {}
    }
    if url.password().is_some() {
        return Err(HostUriError::Shape(
            "a URI may not hold a password: use ssh keys or TLS certificates",
        ));
    }
    safe("the host", host)?;
    safe("the user", url.username())?;
    if driver == "qemu" && !matches!(url.path(), "/system" | "/session") {
        return Err(HostUriError::Shape(
            "the path of a qemu URI is /system (or /session)",
        ));
    }
    safe("the path", url.path())?;
    if url.fragment().is_some() {
        return Err(HostUriError::Shape("a libvirt URI has no #fragment"));
    }
    for (name, value) in url.query_pairs() {
        let refuse = |why| {
            Err(HostUriError::Parameter {
                name: name.to_string(),
                why,
            })
        };
        match (&*name, transport) {
            ("command", _) => return refuse("it runs a program"),
            ("netcat", _) => return refuse("it runs a program on the host"),
            ("no_verify", _) => return refuse("it switches off the check of who the host is"),
            ("socket", "ssh") => return refuse("it enters a shell command on the host unescaped"),
            ("socket", "unix") if !value.starts_with('/') => {
                return Err(HostUriError::Shape("socket is an absolute path"));
            }
            ("socket", "unix")
            | ("keyfile" | "known_hosts" | "sshauth", "ssh")
            | ("pkipath" | "tls_priority", "tls") => {}
            ("no_tty", "ssh") if value == "1" => {}
            _ => return refuse("it is not one that vmss knows to be harmless"),
        }
        safe(&format!("the parameter {name}"), &value)?;
    }
    Ok(())
}

fn safe(what: &str, value: &str) -> Result<(), HostUriError> {
    let fine = |c: char| c.is_ascii_alphanumeric() || ".-_/:@,+[]".contains(c);
    if value.starts_with('-') || !value.chars().all(fine) {
        return Err(HostUriError::Unsafe {
            what: what.to_owned(),
            value: value.to_owned(),
        });
    }
    Ok(())
}

/// Whether the URI goes through an ssh program, which must never ask for a password on a terminal.
pub fn is_ssh(uri: &str) -> bool {
    uri.split_once("://")
        .is_some_and(|(scheme, _)| scheme.ends_with("+ssh"))
}

/// The host that the URI names, if it is another machine than this one.
pub fn host(uri: &str) -> Option<String> {
    let url = Url::parse(uri).ok()?;
    let host = url.host_str().filter(|host| !host.is_empty())?;
    Some(host.trim_matches(['[', ']']).to_owned())
}

/// One form for URIs that mean one host: host names without case, no trailing slash, parameters that only say how to
/// connect left out.
pub fn normal(uri: &str) -> String {
    let Ok(url) = Url::parse(uri) else {
        return uri.to_owned();
    };
    let socket = url
        .query_pairs()
        .find(|(name, _)| name == "socket")
        .map(|(_, value)| value.to_string());
    let driver = url.scheme().split('+').next().unwrap_or_default().to_owned();
    let host = url.host_str().unwrap_or_default().to_ascii_lowercase();
    format!(
        "{driver}://{host}:{}{}?{}",
        url.port().unwrap_or(0),
        url.path().trim_end_matches('/'),
        socket.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_uris_are_allowed() {
        for good in [
            "qemu:///system",
            "qemu+ssh://vmss@kvm1/system",
            "qemu+ssh://vmss@kvm1.example.org:2222/system?keyfile=/root/.ssh/vmss&known_hosts=/etc/vmss/known_hosts",
            "qemu+tls://kvm1/system?pkipath=/etc/pki/vmss",
            "qemu+unix:///system?socket=/run/lab/kvm1/libvirt-sock",
            "qemu+ssh://vmss@kvm1/system?no_tty=1",
            "test:///default",
            "test+unix:///default?socket=/tmp/x/libvirt-sock",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_could_run_code_is_refused() {
        for bad in [
            "qemu+ext:///system?command=/bin/sh",
            "qemu:///system?command=/bin/sh",
            "qemu+ssh://kvm1/system?socket=/x;rm%20-rf%20/",
            "qemu+ssh://kvm1/system?netcat=/bin/evil",
            "qemu+ssh://kvm1/system?no_verify=1",
            "qemu+ssh://kvm1/system?proxy=netcat",
            "qemu+ssh://-oProxyCommand=evil/system",
            "qemu+ssh://-oProxyCommand=evil@kvm1/system",
            "qemu+ssh://kvm1/system?keyfile=-oProxyCommand=x",
            "qemu+ssh://u:secret@kvm1/system",
            "qemu+ssh:///system",
            "qemu://kvm1/system",
            "qemu+tcp://kvm1/system",
            "qemu+libssh2://kvm1/system",
            "qemu+unix:///system?socket=relative",
            "qemu+unix:///system?socket=/a%0ab",
            "qemu:///etc/passwd",
            "lxc:///system",
            "http://kvm1/system",
            "kvm1",
            "",
        ] {
            assert!(check(bad).is_err(), "{bad} must be refused");
        }
    }

    #[test]
    fn the_machine_that_a_uri_names_is_known() {
        let host = |uri| host(uri).unwrap_or_default();
        assert_eq!(
            host("qemu+ssh://a@kvm1.example.org:2222/system"),
            "kvm1.example.org"
        );
        assert_eq!(host("qemu+tls://[fd00::7]/system"), "fd00::7");
        assert_eq!(host("qemu+ssh://10.0.0.1/system"), "10.0.0.1");
        assert_eq!(host("qemu+unix:///system?socket=/a"), "");
    }

    #[test]
    fn one_host_has_one_form() {
        assert_eq!(
            normal("qemu+ssh://a@KVM1/system"),
            normal("qemu+ssh://b@kvm1/system?keyfile=/k")
        );
        assert_ne!(
            normal("qemu+unix:///system?socket=/a"),
            normal("qemu+unix:///system?socket=/b")
        );
    }
}
