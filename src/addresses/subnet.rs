//! A range of addresses with a common beginning, of either family: `10.0.0.0/8`, `fd00::/64`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A range of addresses with a common beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    first: IpAddr,
    prefix: u8,
}

impl Subnet {
    /// Whether the address is in it. An IPv4 address in the form of an IPv6 one is what it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.first.is_ipv4() == address.is_ipv4()
            && start(address, self.prefix) == start(self.first, self.prefix)
    }
}

/// The first `prefix` bits of an address.
fn start(address: IpAddr, prefix: u8) -> u128 {
    let (bits, length) = match address {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    };
    bits.checked_shr(length - u32::from(prefix)).unwrap_or(0)
}

impl FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("{text:?} is no subnet: write it as \"10.0.0.0/8\" or \"fd00::/64\"");
        let (first, prefix) = text.trim().split_once('/').ok_or_else(form)?;
        let first: IpAddr = first.parse().map_err(|_| form())?;
        let prefix: u8 = prefix.parse().map_err(|_| form())?;
        let length = if first.is_ipv4() { 32 } else { 128 };
        if prefix > length {
            return Err(form());
        }
        let rest = match first {
            IpAddr::V4(v4) => u128::from(u32::from(v4)),
            IpAddr::V6(v6) => u128::from(v6),
        } & !u128::MAX.checked_shl(u32::from(length - prefix)).unwrap_or(0);
        if rest != 0 {
            return Err(format!(
                "{text:?} is no subnet: {first} has more than the first {prefix} bits"
            ));
        }
        if first.to_canonical() != first {
            return Err(format!("{text:?} is a subnet of IPv4: write it as one"));
        }
        Ok(Self { first, prefix })
    }
}

impl TryFrom<String> for Subnet {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(subnet: &str, address: &str) -> bool {
        subnet
            .parse::<Subnet>()
            .unwrap()
            .contains(address.parse().unwrap())
    }

    #[test]
    fn a_subnet_has_what_begins_as_it_does() {
        assert!(has("10.0.0.0/8", "10.255.1.2") && !has("10.0.0.0/8", "11.0.0.1"));
        assert!(has("0.0.0.0/0", "255.1.2.3") && !has("0.0.0.0/0", "fd00::1"));
        assert!(has("10.1.2.3/32", "10.1.2.3") && !has("10.1.2.3/32", "10.1.2.4"));
        assert!(has("fd00::/64", "fd00::1") && !has("fd00::/64", "fd00:0:0:1::1"));
        assert!(has("::/0", "fd00::1"));
        assert!(has("10.0.0.0/8", "::ffff:10.0.0.1"), "that is an address of IPv4");
        assert!(!has("::/0", "::ffff:10.0.0.1"));
    }

    #[test]
    fn what_is_no_subnet_is_refused() {
        for bad in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "fd00::/129",
            "fd00::1/64",
            "10.0.0.0/-1",
            "a/8",
            "::ffff:10.0.0.0/104",
        ] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
        let subnet: Subnet = "fd00::/64".parse().unwrap();
        let text = serde_json::to_string(&subnet).unwrap();
        assert_eq!(text, "\"fd00::/64\"");
        assert_eq!(serde_json::from_str::<Subnet>(&text).unwrap(), subnet);
    }
}
