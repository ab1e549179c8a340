//! Who may connect: how many in all and from one address, how fast, and how many without a login.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use parking_lot::Mutex;
use protocols::connection::{Cause, CloseReason};

use crate::session::WayBack;

/// The limits of [`Admission`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Connections in all.
    pub connections: usize,
    /// Connections from one address. Loopback addresses are not counted one by one: proxies and
    /// tests live there.
    pub per_ip: usize,
    /// New connections per second in the long run.
    pub per_sec: u32,
    /// New connections at once.
    pub burst: u32,
    /// Connections without a login.
    pub half_open: usize,
}

/// Counts connections and keeps them within the limits.
pub struct Admission {
    counts: Arc<Counts>,
    settings: ArcSwap<Settings>,
    half_open: Mutex<BTreeMap<u64, WayBack>>,
}

struct Settings {
    limits: AdmissionLimits,
    rate: DefaultDirectRateLimiter,
}

#[derive(Debug, Default)]
struct Counts {
    all: AtomicUsize,
    by_ip: DashMap<IpAddr, usize>,
}

/// A connection's place; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    counts: Arc<Counts>,
    /// The address, if it is counted.
    ip: Option<IpAddr>,
}

/// Why a connection was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// As many connections as the broker may have.
    All,
    /// As many as one address may have.
    Address,
}

impl Settings {
    fn new(limits: AdmissionLimits) -> Self {
        let positive = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(positive(limits.per_sec)).allow_burst(positive(limits.burst));
        Self {
            limits,
            rate: RateLimiter::direct(quota),
        }
    }
}

impl Admission {
    /// No connections yet.
    pub fn new(limits: AdmissionLimits) -> Self {
        Self {
            counts: Arc::default(),
            settings: ArcSwap::from_pointee(Settings::new(limits)),
            half_open: Mutex::default(),
        }
    }

    /// Uses other limits from now on. Connections that exist are not touched.
    pub fn set_limits(&self, limits: AdmissionLimits) {
        if self.settings.load().limits != limits {
            self.settings.store(Arc::new(Settings::new(limits)));
        }
    }

    /// Whether another connection may be accepted now, or how long to wait for that: meanwhile
    /// connections wait in the kernel's backlog.
    pub fn pace(&self) -> Result<(), Duration> {
        let settings = self.settings.load();
        let checked = settings.rate.check();
        checked.map_err(|until| until.wait_time_from(DefaultClock::default().now()))
    }

    /// A place for a connection from that address.
    pub fn admit(&self, ip: IpAddr) -> Result<Permit, Full> {
        let limits = self.settings.load().limits;
        let before = self.counts.all.fetch_add(1, Ordering::AcqRel);
        let mut permit = Permit {
            counts: Arc::clone(&self.counts),
            ip: None,
        };
        if before >= limits.connections {
            return Err(Full::All);
        }
        if ip.is_loopback() {
            return Ok(permit);
        }
        let mut count = self.counts.by_ip.entry(ip).or_insert(0);
        if *count >= limits.per_ip {
            drop(count);
            return Err(Full::Address);
        }
        *count += 1;
        permit.ip = Some(ip);
        Ok(permit)
    }

    /// A connection begins that has not logged in. If there are too many of those, the oldest is
    /// closed: it had the longest time.
    pub fn begin_login(&self, link: u64, slot: &WayBack) {
        let max = self.settings.load().limits.half_open;
        let oldest = {
            let mut half_open = self.half_open.lock();
            half_open.insert(link, Arc::clone(slot));
            if half_open.len() > max {
                half_open.pop_first()
            } else {
                None
            }
        };
        if let Some((_, slot)) = oldest {
            let detail = "too many connections have not logged in (limits.half_open_percent)";
            dismiss(&slot, CloseReason::new(Cause::LoginTimeout, detail));
        }
    }

    /// Closes all connections that have not logged in.
    pub fn dismiss_half_open(&self, reason: &CloseReason) {
        let half_open = std::mem::take(&mut *self.half_open.lock());
        for slot in half_open.values() {
            dismiss(slot, reason.clone());
        }
    }

    /// A connection has logged in, or is over.
    pub fn end_login(&self, link: u64) {
        self.half_open.lock().remove(&link);
    }

    /// Connections there are.
    pub fn connections(&self) -> usize {
        self.counts.all.load(Ordering::Acquire)
    }
}

fn dismiss(slot: &WayBack, reason: CloseReason) {
    let mut slot = slot.lock();
    // A link that is not there has logged in meanwhile.
    let Some(link) = slot.as_mut() else { return };
    link.close(reason);
    if let Some(waker) = link.sleeper.take() {
        waker.wake();
    }
}

impl Full {
    /// For logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::All => "connections",
            Self::Address => "connections_per_ip",
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.counts.all.fetch_sub(1, Ordering::AcqRel);
        if let Some(ip) = self.ip {
            self.counts.by_ip.remove_if_mut(&ip, |_, count| {
                *count -= 1;
                *count == 0
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> AdmissionLimits {
        AdmissionLimits {
            connections: 3,
            per_ip: 2,
            per_sec: 1,
            burst: 2,
            half_open: 1,
        }
    }

    #[test]
    fn places_are_given_back() {
        let admission = Admission::new(limits());
        let ip = IpAddr::from([192, 0, 2, 1]);
        let first = admission.admit(ip).unwrap();
        let _second = admission.admit(ip).unwrap();
        assert_eq!(admission.admit(ip).unwrap_err(), Full::Address);
        assert_eq!(admission.connections(), 2, "a refused one takes no place");
        drop(first);
        let _third = admission.admit(ip).unwrap();
        let _fourth = admission.admit(IpAddr::from([127, 0, 0, 1])).unwrap();
        let fifth = admission.admit(IpAddr::from([127, 0, 0, 1]));
        assert_eq!(fifth.unwrap_err(), Full::All);
        assert_eq!(admission.connections(), 3);
    }

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let admission = Admission::new(limits());
        assert!(admission.pace().is_ok());
        assert!(admission.pace().is_ok());
        let wait = admission.pace().unwrap_err();
        assert!(wait <= Duration::from_secs(1), "{wait:?}");
    }
}
