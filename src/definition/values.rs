//! Values as people write them: sizes, durations, address ranges, names of things on a host.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::scaleset::AddressRange;
use crate::units::Bytes;

/// "2 GiB", "512MiB", "2 GB" (decimal).
pub fn size(text: &str) -> Result<Bytes, String> {
    let trimmed = text.trim();
    if !trimmed.is_empty() && trimmed.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!(
            "{text:?} has no unit: write {trimmed} MiB or {trimmed} GiB"
        ));
    }
    let parsed: bytesize::ByteSize = trimmed
        .parse()
        .map_err(|_| format!("{text:?} is not a size: write it as \"2 GiB\" or \"512 MiB\""))?;
    Ok(Bytes(parsed.as_u64()))
}

/// "90s", "10m", "1h 30m".
pub fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration = text
        .parse()
        .map_err(|_| format!("{text:?} is not a duration: write it as \"90s\" or \"10m\""))?;
    Duration::try_from(parsed).map_err(|_| format!("{text:?} is negative"))
}

/// A duration as one would write it: "100ms", "90s", "10m", "2h".
pub fn spelled(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.as_millis());
    match seconds {
        _ if duration.subsec_millis() != 0 => format!("{millis}ms"),
        0 => "0s".to_owned(),
        _ if seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        _ if seconds % 60 == 0 => format!("{}m", seconds / 60),
        _ => format!("{seconds}s"),
    }
}

/// "20%", from 0 to 100.
pub fn percent(text: &str) -> Result<u32, String> {
    let Some(digits) = text.trim().strip_suffix('%').map(str::trim) else {
        return Err(format!("{text:?} is neither a number nor a percentage"));
    };
    let is_whole = (1..=3).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    (digits.parse().ok())
        .filter(|n| is_whole && *n <= 100)
        .ok_or_else(|| format!("{text:?} is no percentage: whole numbers from 0% to 100% are"))
}

/// The path of an HTTP request, with a query if there is one: what a URL may have after its host (RFC 3986).
pub fn url_path(text: &str) -> Result<(), String> {
    if !text.starts_with('/') {
        return Err(format!("{text:?} is no path: it must begin with /"));
    }
    let fine = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@/?%".contains(c);
    match text.chars().find(|c| !fine(*c)) {
        Some(c) => Err(format!("{c:?} may not stand in a path")),
        None => Ok(()),
    }
}

/// An address of a host, or its name in DNS, that another host can open a connection to. It becomes part of a URI.
pub fn host_address(text: &str) -> Result<(), String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
            return Err(format!(
                "{text} is no address at which another host reaches this one"
            ));
        }
        return Ok(());
    }
    let is_label = |l: &str| {
        (1..=63).contains(&l.len())
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    // A last label of digits only would be read as a number of an address.
    let is_name = text.len() <= 253
        && text.split('.').all(is_label)
        && text
            .rsplit('.')
            .next()
            .is_some_and(|l| l.bytes().any(|b| !b.is_ascii_digit()))
        && !text.eq_ignore_ascii_case("localhost");
    if is_name {
        return Ok(());
    }
    Err(format!(
        "{text:?} is neither an address nor a DNS name: write it as \"10.0.1.11\" or \"kvm1.example.org\""
    ))
}

/// "10.0.0.10-10.0.0.99/24".
pub fn addresses(text: &str) -> Result<AddressRange, String> {
    let form = || format!("{text:?} is not a range of addresses: write it as \"10.0.0.10-10.0.0.99/24\"");
    let (range, prefix) = text.split_once('/').ok_or_else(form)?;
    let (first, last) = range.split_once('-').ok_or_else(form)?;
    let first: Ipv4Addr = first.trim().parse().map_err(|_| form())?;
    let last: Ipv4Addr = last.trim().parse().map_err(|_| form())?;
    let prefix: u8 = prefix.trim().parse().map_err(|_| form())?;
    if !(8..=30).contains(&prefix) {
        return Err(format!(
            "a prefix of /{prefix} makes no usable subnet: allowed are /8 to /30"
        ));
    }
    if first > last {
        return Err(format!("{first} comes after {last}"));
    }
    let range = AddressRange { first, last, prefix };
    if network(&range, first) != network(&range, last) {
        return Err(format!("{first} and {last} are not in one /{prefix} subnet"));
    }
    let (net, broadcast) = bounds(&range);
    if first == net {
        return Err(format!("{first} is the subnet's own address"));
    }
    if last == broadcast {
        return Err(format!("{last} is the subnet's broadcast address"));
    }
    Ok(range)
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

fn network(range: &AddressRange, address: Ipv4Addr) -> u32 {
    u32::from(address) & mask(range.prefix)
}

fn bounds(range: &AddressRange) -> (Ipv4Addr, Ipv4Addr) {
    let net = network(range, range.first);
    (Ipv4Addr::from(net), Ipv4Addr::from(net | !mask(range.prefix)))
}

/// Whether `address` can be used in the range's subnet.
pub fn in_subnet(range: &AddressRange, address: Ipv4Addr) -> bool {
    let (net, broadcast) = bounds(range);
    network(range, address) == u32::from(net) && address != net && address != broadcast
}

/// How many addresses a range has.
pub fn how_many(range: &AddressRange) -> u64 {
    u64::from(u32::from(range.last)) - u64::from(u32::from(range.first)) + 1
}

/// An address with its port: `10.0.0.1:8080`, `[fd00::1]:8080`. Names are not looked up: what they mean may change.
pub fn socket_address(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = (text.parse()).map_err(|_| {
        format!("{text:?} is no address with a port, such as 10.0.0.1:8080 or [fd00::1]:8080")
    })?;
    let is_multicast = address.ip().is_multicast();
    if address.port() == 0 || is_multicast || address.ip() == Ipv4Addr::BROADCAST {
        return Err(format!("{text} is nothing that can be connected to"));
    }
    Ok(address)
}

/// The name of a backend in HAProxy.
pub fn proxy_name(text: &str) -> Result<(), String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    if text.is_empty() || text.len() > 128 || !text.chars().all(fine) {
        return Err(format!(
            "{text:?} can't be the name of a backend: letters, digits, '-', '_', '.' and ':', 128 at most"
        ));
    }
    Ok(())
}

/// A Linux interface name: what a bridge may be called.
pub fn bridge(text: &str) -> Result<(), String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '@');
    if text.is_empty() || text.len() > 15 || !text.chars().all(fine) || matches!(text, "." | "..") {
        return Err(format!(
            "{text:?} can't be the name of a bridge: 1 to 15 letters, digits, '-', '_' or '.'"
        ));
    }
    Ok(())
}

/// The name of a pool or a libvirt network.
pub fn libvirt_name(text: &str) -> Result<(), String> {
    let fine = |c: char| !c.is_control() && c != '/';
    if text.trim().is_empty() || text.len() > 200 || !text.chars().all(fine) {
        return Err(format!(
            "{text:?} can't be a name in libvirt: no '/', no control characters, 200 bytes at most"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_address_is_one_that_others_reach() {
        for good in [
            "10.0.1.11",
            "fd00::11",
            "kvm1",
            "kvm-1.example.org",
            "KVM1",
            "10gbe.kvm1",
            "1a",
        ] {
            assert_eq!(host_address(good), Ok(()), "{good}");
        }
        let long = "a".repeat(64);
        for bad in [
            "",
            "127.0.0.1",
            "::1",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "localhost",
            "10.0.1",
            "10.0.1.256",
            "kvm1:22",
            "[fd00::1]",
            "fe80::1%eth0",
            "tcp://kvm1",
            "kvm1/x",
            "-kvm1",
            "kvm1-",
            "kvm..1",
            "kvm1.",
            "k vm",
            "kvm_1",
            "kvm\n1",
            long.as_str(),
        ] {
            assert!(host_address(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(size("2 GiB"), Ok(Bytes::gib(2)));
        assert_eq!(size("512MiB"), Ok(Bytes::mib(512)));
        assert_eq!(size("2 GB"), Ok(Bytes(2_000_000_000)));
        assert_eq!(size("1.5 GiB"), Ok(Bytes::mib(1536)));
        assert!(size("512").unwrap_err().contains("has no unit"));
        for bad in ["", "GiB", "-1 GiB", "2 apples", "2 GiB!"] {
            assert!(size(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn percentages_are_whole_and_no_more_than_all() {
        for (text, wanted) in [("20%", 20), (" 5 % ", 5), ("0%", 0), ("100%", 100), ("007%", 7)] {
            assert_eq!(percent(text), Ok(wanted), "{text:?}");
        }
        for bad in [
            "", "%", "20", "101%", "-5%", "+5%", "2.5%", "20%%", "0000005%", "x%", "٣%",
        ] {
            assert!(percent(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn durations_are_spelled_as_people_write_them() {
        for text in ["0s", "100ms", "1500ms", "1s", "90s", "1m", "90m", "2h"] {
            assert_eq!(spelled(duration(text).unwrap()), text);
        }
    }

    #[test]
    fn a_path_is_what_a_url_may_have_after_its_host() {
        for good in ["/", "/healthz", "/a/b?full=1&x=%20", "/a;b=c/~me"] {
            assert_eq!(url_path(good), Ok(()));
        }
        for bad in [
            "",
            "healthz",
            "http://x/",
            "/a b",
            "/a\r\nHost: x",
            "/ä",
            "/a#b",
            "/<a>",
        ] {
            assert!(url_path(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn address_ranges_stay_within_their_subnet() {
        let range = addresses("10.0.0.10-10.0.0.99/24").unwrap();
        assert_eq!(how_many(&range), 90);
        assert!(in_subnet(&range, Ipv4Addr::new(10, 0, 0, 1)));
        assert!(!in_subnet(&range, Ipv4Addr::new(10, 0, 1, 1)));
        assert!(!in_subnet(&range, Ipv4Addr::new(10, 0, 0, 255)));
        for bad in [
            "10.0.0.10",
            "10.0.0.10-10.0.0.9/24",
            "10.0.0.10-10.0.1.9/24",
            "10.0.0.0-10.0.0.9/24",
            "10.0.0.9-10.0.0.255/24",
            "10.0.0.1-10.0.0.2/32",
            "10.0.0.1-10.0.0.2/99",
            "a-b/c",
        ] {
            assert!(addresses(bad).is_err(), "{bad}");
        }
    }
}
