//! Networks of IP addresses.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// Bits of an IPv6 address that name a site: whoever has one address has the rest of them.
const SITE_BITS: u8 = 64;

/// An address, or all that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network {
    /// The first of them.
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// One address, or the site that it belongs to (IPv6 /64).
    pub fn around(ip: IpAddr) -> Self {
        let address = source(ip);
        let prefix = if address.is_ipv4() { 32 } else { SITE_BITS };
        Self { address, prefix }
    }

    /// Reads `192.0.2.7`, `10.0.0.0/8` or `2001:db8::/32`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address
            .trim()
            .parse()
            .map_err(|_| format!("`{address}` is not an IP address"))?;
        let address = address.to_canonical();
        let (bits, version) = if address.is_ipv4() { (32, 4) } else { (128, 6) };
        let prefix = match prefix {
            None => bits,
            Some(prefix) => prefix
                .trim()
                .parse()
                .ok()
                .filter(|prefix| *prefix <= bits)
                .ok_or_else(|| format!("`{prefix}` is not a prefix of an IPv{version} address"))?,
        };
        let address = first(address, prefix);
        Ok(Self { address, prefix })
    }

    /// Whether an address is in it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_ipv4() == self.address.is_ipv4() && first(ip, self.prefix) == self.address
    }

    /// Whether it is exactly what [`Network::around`] one of its addresses is.
    pub(super) fn is_source(&self) -> bool {
        self.prefix
            == if self.address.is_ipv4() {
                32
            } else {
                SITE_BITS
            }
    }

    fn is_single(&self) -> bool {
        self.prefix == if self.address.is_ipv4() { 32 } else { 128 }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_single() {
            return self.address.fmt(f);
        }
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// What an address is counted as: itself, or its site (IPv6 /64). An IPv4 address that came in
/// over an IPv6 socket is an IPv4 address.
pub fn source(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        // Loopback stays what it is: others are told apart by it.
        IpAddr::V6(Ipv6Addr::LOCALHOST) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip @ IpAddr::V6(_) => first(ip, SITE_BITS),
        ip @ IpAddr::V4(_) => ip,
    }
}

/// The first address with the same `prefix` bits.
fn first(ip: IpAddr, prefix: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4((ip.to_bits() & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6((ip.to_bits() & mask).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn networks_hold_what_begins_alike() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.1.2", "11.0.0.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("192.0.2.7", "::ffff:192.0.2.7", "::1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("::/0", "2001:db8::1", "127.0.0.1"),
        ] {
            let network = Network::parse(network).unwrap();
            assert!(network.contains(ip(inside)), "{network} {inside}");
            assert!(!network.contains(ip(outside)), "{network} {outside}");
        }
        // What is beyond the prefix does not count.
        let odd = Network::parse("10.1.2.3/8").unwrap();
        assert_eq!(odd.to_string(), "10.0.0.0/8");
        for wrong in ["", "x", "10.0.0.0/33", "::/129", "1.2.3.4/", "1.2.3.4/-1"] {
            assert!(Network::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_site_counts_as_one() {
        assert_eq!(source(ip("2001:db8::1:2:3:4")), source(ip("2001:db8::4")));
        assert_ne!(source(ip("2001:db8:0:1::1")), source(ip("2001:db8::1")));
        assert_eq!(source(ip("::ffff:192.0.2.7")), ip("192.0.2.7"));
        assert!(source(ip("::ffff:127.0.0.1")).is_loopback());
        assert!(source(ip("::1")).is_loopback());
        assert_eq!(
            Network::around(ip("2001:db8::9")).to_string(),
            "2001:db8::/64"
        );
    }
}
