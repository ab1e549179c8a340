//! Who is kept out, and how much of the broker one address, client or user may have.
//!
//! - [`bans`]: who may not come in, from the configuration and added while the broker runs.
//! - [`rate`]: token buckets, computed when they are asked and never by a timer.
//! - [`watch`]: how often something happened in a time, for clients that flap and addresses that
//!   guess passwords.
//! - [`places`]: connections of each user.
//! - [`memory`]: what is held back while memory is scarce.
//!
//! `net` asks it about addresses, the `hub` about clients and users. It does no I/O, reads no
//! clock, and every table in it is bounded.

mod bans;
mod memory;
mod network;
mod places;
mod rate;
mod watch;

use std::net::IpAddr;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytestring::ByteString;
use parking_lot::Mutex;
use protocols::connection::{Refusal, RefusalCode};
use protocols::model::Timestamp;

pub use bans::{Ban, Bans, Subject};
pub use memory::{Memory, MemoryBounds, Scarcity};
pub use network::{Network, source};
pub use places::{Place, Places};
pub use rate::{Bucket, Rate};

use rate::Buckets;
use watch::Watch;

use crate::telemetry::Counter;

/// What the guard keeps to, from the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardSettings {
    /// New connections from one address.
    pub connects: Rate,
    /// Connections of one user.
    pub per_user: usize,
    /// Bytes of a last will.
    pub will_bytes: usize,
    /// Bans that are always there.
    pub banned: Vec<Subject>,
    /// Bans that are added at run time.
    pub bans: usize,
    /// Clients and addresses that connect again and again.
    pub flapping: Threshold,
    /// Addresses that guess.
    pub failed_logins: Threshold,
    /// Addresses and clients that are remembered for it.
    pub tracked: usize,
}

/// So many within a time, and what comes of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Threshold {
    /// How many; 0 for no threshold.
    pub count: u32,
    /// The time in which they are counted.
    pub window: Duration,
    /// How long whoever comes to it is banned.
    pub ban: Duration,
}

impl Default for GuardSettings {
    /// Nothing is limited.
    fn default() -> Self {
        Self {
            connects: Rate::default(),
            per_user: usize::MAX,
            will_bytes: usize::MAX,
            banned: Vec::new(),
            bans: 10_000,
            flapping: Threshold::default(),
            failed_logins: Threshold::default(),
            tracked: 65_536,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Guard {
    /// Who may not come in.
    pub bans: Bans,
    /// What was counted.
    pub counts: Counts,
    /// Whether memory is scarce.
    pub memory: Memory,
    settings: ArcSwap<GuardSettings>,
    connects: Mutex<Buckets<IpAddr>>,
    flapping: Mutex<Watch<Subject>>,
    failed_logins: Mutex<Watch<IpAddr>>,
    users: Places,
}

/// What the guard counts, for the metrics.
#[derive(Debug, Default)]
pub struct Counts {
    /// Bans because of flapping.
    pub flapping: Counter,
    /// Bans because of failed logins.
    pub failed_logins: Counter,
}

/// Why an address may not connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptOut {
    /// It is banned.
    Banned,
    /// It connects too often.
    Rate,
}

impl KeptOut {
    /// For logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Banned => "banned",
            Self::Rate => "connections_per_ip_per_sec",
        }
    }
}

impl Guard {
    /// Keeps to other settings from now on.
    pub fn set(&self, settings: GuardSettings) {
        self.bans.configure(&settings.banned, settings.bans);
        self.settings.store(settings.into());
    }

    /// Whether an address may connect now. Each call counts as a connection.
    pub fn connect_from(&self, ip: IpAddr, now: Timestamp) -> Result<(), KeptOut> {
        if self.bans.is_address_banned(ip, now) {
            return Err(KeptOut::Banned);
        }
        let settings = self.settings.load();
        let address = source(ip);
        if address.is_loopback() {
            return Ok(());
        }
        let mut connects = self.connects.lock();
        if !connects.take(address, settings.connects, settings.tracked, now) {
            return Err(KeptOut::Rate);
        }
        drop(connects);
        if self.flaps(Subject::Address(Network::around(ip)), now) {
            return Err(KeptOut::Banned);
        }
        Ok(())
    }

    /// Whether a client may log in; each call counts as a login. `user` is who it was recognised
    /// as; `replaces` says whether it takes the place of a connection of the same user. The place
    /// is the connection's until it is dropped.
    pub fn log_in(
        &self,
        client_id: Option<&ByteString>,
        user: Option<&ByteString>,
        replaces: bool,
        now: Timestamp,
    ) -> Result<Option<Place>, Refusal> {
        if let Some(user) = user
            && self.bans.is_banned(&Subject::User(user.clone()), now)
        {
            return Err(banned("this user is banned"));
        }
        if let Some(id) = client_id {
            let client = Subject::Client(id.clone());
            if self.bans.is_banned(&client, now) {
                return Err(banned("this client identifier is banned"));
            }
            if self.flaps(client, now) {
                return Err(banned("this client identifier connects too often"));
            }
        }
        let Some(user) = user else { return Ok(None) };
        let limit = self.settings.load().per_user;
        let limit = limit.saturating_add(usize::from(replaces));
        let place = self.users.take(user, limit).ok_or_else(|| {
            let detail = "as many connections as one user may have";
            Refusal::new(RefusalCode::Quota, detail)
        })?;
        Ok(Some(place))
    }

    /// Whether a will of that size is taken.
    pub fn check_will(&self, bytes: usize) -> Result<(), Refusal> {
        let limit = self.settings.load().will_bytes;
        if bytes <= limit {
            return Ok(());
        }
        let detail = format!("the will has {bytes} bytes, {limit} are allowed");
        Err(Refusal::new(RefusalCode::TooLarge, detail))
    }

    /// Somebody at this address has shown wrong credentials.
    pub fn failed_login(&self, ip: IpAddr, now: Timestamp) {
        let settings = self.settings.load();
        let (threshold, address) = (settings.failed_logins, source(ip));
        if address.is_loopback() || threshold.count == 0 {
            return;
        }
        let mut watch = self.failed_logins.lock();
        if watch.count(&address, threshold, settings.tracked, now) {
            drop(watch);
            self.counts.failed_logins.inc();
            self.ban_for(
                Subject::Address(Network::around(ip)),
                threshold,
                "too many failed logins",
                now,
            );
        }
    }

    /// Counts a coming; bans who comes too often.
    fn flaps(&self, subject: Subject, now: Timestamp) -> bool {
        let settings = self.settings.load();
        let threshold = settings.flapping;
        if threshold.count == 0 {
            return false;
        }
        let mut watch = self.flapping.lock();
        let too_often = watch.count(&subject, threshold, settings.tracked, now);
        drop(watch);
        if too_often {
            self.counts.flapping.inc();
            self.ban_for(subject, threshold, "connects too often", now);
        }
        too_often
    }

    fn ban_for(&self, subject: Subject, threshold: Threshold, why: &'static str, now: Timestamp) {
        tracing::warn!(%subject, seconds = threshold.ban.as_secs(), "banned: {why}");
        self.bans.add(subject, Some(now + threshold.ban), why, now);
    }
}

fn banned(detail: &'static str) -> Refusal {
    Refusal::new(RefusalCode::Banned, detail)
}

#[cfg(test)]
mod tests;
