//! Which addresses the services that the operator has named may have.
//!
//! A name may be made to point anywhere, also by who has it for a while: the addresses are looked at
//! that it has when a connection is made, and exactly these are connected to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::guard::Network;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reach {
    /// Empty for all but those that are no services of anybody's.
    networks: Arc<[Network]>,
}

impl Reach {
    /// Services in these networks; without any, everywhere but where machines tell about themselves.
    pub(crate) fn within(networks: &[Network]) -> Self {
        Self {
            networks: networks.into(),
        }
    }

    /// Whether an address may be connected to.
    pub(crate) fn includes(&self, ip: IpAddr) -> bool {
        if self.networks.is_empty() {
            return !is_special(embedded(ip));
        }
        self.networks.iter().any(|network| network.contains(ip))
    }
}

/// Services of the cloud that tell a machine its own credentials, beside those at link-local
/// addresses: of AWS over IPv6, of Alibaba, of Oracle.
const METADATA: [IpAddr; 3] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];

fn is_special(ip: IpAddr) -> bool {
    if METADATA.contains(&ip) {
        return true;
    }
    match ip {
        IpAddr::V4(ip) => {
            ip.is_link_local() || ip.is_multicast() || ip.is_broadcast() || ip.octets()[0] == 0
        }
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.is_multicast() || ip.is_unspecified(),
    }
}

/// The IPv4 address that an IPv6 address carries: mapped, or for a NAT64 or 6to4 relay.
fn embedded(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip.to_canonical() else {
        return ip.to_canonical();
    };
    let of = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => of(high, low),
        _ => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn includes(reach: &Reach, ip: &str) -> bool {
        reach.includes(ip.parse().unwrap())
    }

    #[test]
    fn where_machines_tell_about_themselves_is_out_of_reach() {
        let anywhere = Reach::default();
        for ip in [
            "169.254.169.254",
            "169.254.170.2",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::",
            "fe80::1",
            "fd00:ec2::254",
            "100.100.100.200",
            "192.0.0.192",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "255.255.255.255",
            "224.0.0.1",
            "ff02::1",
        ] {
            assert!(!includes(&anywhere, ip), "{ip}");
        }
        // Services are on the same machine and in private networks as often as not.
        for ip in [
            "127.0.0.1",
            "::1",
            "10.1.2.3",
            "fd12::1",
            "8.8.8.8",
            "2600:1f14::1",
        ] {
            assert!(includes(&anywhere, ip), "{ip}");
        }
    }

    #[test]
    fn listed_networks_are_all_that_is_reached() {
        let networks = ["10.1.0.0/16", "169.254.169.254"];
        let networks = networks.map(|text| Network::parse(text).unwrap());
        let reach = Reach::within(&networks);
        for ip in ["10.1.2.3", "::ffff:10.1.2.3", "169.254.169.254"] {
            assert!(includes(&reach, ip), "{ip}");
        }
        for ip in ["10.2.0.1", "127.0.0.1", "8.8.8.8", "169.254.170.2", "::1"] {
            assert!(!includes(&reach, ip), "{ip}");
        }
    }
}
