//! Keys of the protection against clients that are not wanted: bans, flapping, failed logins.

use std::fmt::Write as _;
use std::time::Duration;

use super::section::section;
use super::setting::Bounds::{Count, Time, Type};
use super::setting::{Bounds, Raw, Setting, quote, texts};
use crate::guard::Network;

const SECOND: u64 = 1000;
const DAY: u64 = 24 * 3600 * SECOND;

section! {
    /// Who is kept out. Loopback addresses are never banned for flapping or failed logins: proxies
    /// live there.
    pub struct Protection in "protection" {
        /// Addresses that may not connect: single ones, or networks as `10.0.0.0/8`.
        banned_addresses: Networks = Networks::default(), Type, Live;
        /// Client identifiers that may not log in.
        banned_clients: Names = Names::default(), Type, Live;
        /// Users that may not log in.
        banned_users: Names = Names::default(), Type, Live;
        /// Bans that are added while the broker runs; beyond it, the one that ends first is
        /// forgotten.
        bans: usize = 10_000, Count(1, 10_000_000), Live;
        /// Logins of one client identifier, or connections from one address, within
        /// `flapping_window` after which it is banned; 0 turns that off.
        flapping_connects: u32 = 0, Count(0, 1_000_000), Live;
        /// The time in which they are counted.
        flapping_window: Duration = Duration::from_mins(1), Time(100, DAY), Live;
        /// How long a client that flaps is banned.
        flapping_ban: Duration = Duration::from_mins(5), Time(100, 365 * DAY), Live;
        /// Logins with wrong credentials from one address within `failed_login_window` after
        /// which it is banned; 0 turns that off.
        failed_logins: u32 = 15, Count(0, 1_000_000), Live;
        /// The time in which they are counted.
        failed_login_window: Duration = Duration::from_mins(1), Time(100, DAY), Live;
        /// How long an address that guesses is banned.
        failed_login_ban: Duration = Duration::from_mins(5), Time(100, 365 * DAY), Live;
        /// Addresses and clients whose connections are counted for the keys above and for
        /// `limits.connections_per_ip_per_sec`; beyond it, those that were quiet are forgotten.
        tracked: usize = 65_536, Count(16, 10_000_000), Live;
    }
}

/// Networks of addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<Network>);

/// A list of names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(Vec<String>);

impl Networks {
    /// The networks.
    pub fn as_slice(&self) -> &[Network] {
        &self.0
    }
}

impl Names {
    /// The names.
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }
}

fn list<T: std::fmt::Display>(items: &[T]) -> String {
    let mut text = String::new();
    for item in items {
        let comma = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{comma}{}", quote(&item.to_string()));
    }
    format!("[{text}]")
}

impl Setting for Networks {
    fn read(&mut self, raw: &Raw, _bounds: Bounds) -> Result<(), String> {
        let networks = texts(raw)?;
        let networks = networks.iter().map(|text| Network::parse(text));
        self.0 = networks.collect::<Result<_, _>>()?;
        Ok(())
    }

    fn literal(&self, _bounds: Bounds) -> String {
        list(&self.0)
    }

    fn allowed(&self, _bounds: Bounds) -> String {
        "a list of addresses and networks: \"192.0.2.7\", \"10.0.0.0/8\", \"2001:db8::/32\""
            .to_owned()
    }
}

impl Setting for Names {
    fn read(&mut self, raw: &Raw, _bounds: Bounds) -> Result<(), String> {
        self.0 = texts(raw)?;
        Ok(())
    }

    fn literal(&self, _bounds: Bounds) -> String {
        list(&self.0)
    }

    fn allowed(&self, _bounds: Bounds) -> String {
        "a list of names".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_read_back() {
        let mut networks = Networks::default();
        networks
            .read(&Raw::Bare("10.0.0.0/8, ::1".into()), Type)
            .unwrap();
        assert_eq!(networks.literal(Type), "[\"10.0.0.0/8\", \"::1\"]");
        let wrong = networks.read(&Raw::Bare("10.0.0.0/33".into()), Type);
        assert_eq!(
            wrong.unwrap_err(),
            "`33` is not a prefix of an IPv4 address"
        );
        assert_eq!(networks.as_slice().len(), 2, "the old list stays");
        assert_eq!(Names::default().literal(Type), "[]");
    }
}
