//! Who may connect: how many in all and from one address, how fast, and how many without a login,
//! with how many bytes. Who is banned is the guard's part.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use parking_lot::Mutex;
use protocols::connection::{Cause, CloseReason};
use tokio::sync::Notify;

use crate::guard::source;
use crate::session::WayBack;
use crate::telemetry::Counter;

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
    /// Bytes that all of those may have sent.
    pub half_open_bytes: usize,
}

/// Counts connections and keeps them within the limits.
pub struct Admission {
    counts: Arc<Counts>,
    settings: ArcSwap<Settings>,
    /// Connections without a login that were closed to make room.
    pub dismissed: Counter,
}

struct Settings {
    limits: AdmissionLimits,
    rate: DefaultDirectRateLimiter,
}

#[derive(Debug, Default)]
struct Counts {
    all: AtomicUsize,
    by_ip: DashMap<IpAddr, usize>,
    numbers: AtomicU64,
    half_open: Mutex<HalfOpen>,
}

/// Connections without a login, by their number: the oldest comes first.
#[derive(Debug, Default)]
struct HalfOpen {
    connections: BTreeMap<u64, Young>,
    bytes: usize,
}

#[derive(Debug)]
struct Young {
    way: Way,
    bytes: usize,
}

/// How to close a connection without a login.
#[derive(Clone, Debug)]
enum Way {
    /// It speaks its protocol.
    Link(WayBack),
    /// It does not yet: its task is told to end.
    Task(Arc<Notify>),
}

impl HalfOpen {
    /// Puts a connection in, or notes that it has come further.
    fn put(&mut self, number: u64, way: Way) {
        let bytes = self.remove(number);
        self.bytes += bytes;
        self.connections.insert(number, Young { way, bytes });
    }

    /// Takes a connection out; returns the bytes that it had sent.
    fn remove(&mut self, number: u64) -> usize {
        let removed = self.connections.remove(&number);
        let bytes = removed.map_or(0, |young| young.bytes);
        self.bytes -= bytes;
        bytes
    }

    /// The oldest, if there are more or larger ones than allowed.
    fn surplus(&mut self, limits: AdmissionLimits) -> Option<Way> {
        let many = self.connections.len() > limits.half_open;
        if !many && self.bytes <= limits.half_open_bytes {
            return None;
        }
        let (_, young) = self.connections.pop_first()?;
        self.bytes -= young.bytes;
        Some(young.way)
    }
}

/// A connection's place and number; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    number: u64,
    /// Until it is taken by who speaks the connection's protocol.
    seat: Option<Seat>,
}

/// A connection's place alone, for one that knows its number and ends its login itself; given back
/// when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    counts: Arc<Counts>,
    /// The address, if it is counted.
    ip: Option<Box<IpAddr>>,
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
            dismissed: Counter::default(),
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

    /// A number for a connection, which no other of this process has; later ones are greater.
    pub(super) fn number(&self) -> u64 {
        self.counts.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A place for a connection from that address.
    pub fn admit(&self, ip: IpAddr) -> Result<Permit, Full> {
        let limits = self.settings.load().limits;
        let before = self.counts.all.fetch_add(1, Ordering::AcqRel);
        let mut seat = Seat {
            counts: Arc::clone(&self.counts),
            ip: None,
        };
        if before >= limits.connections {
            return Err(Full::All);
        }
        let ip = source(ip);
        if ip.is_loopback() {
            return Ok(self.permit(seat));
        }
        let mut count = self.counts.by_ip.entry(ip).or_insert(0);
        if *count >= limits.per_ip {
            drop(count);
            return Err(Full::Address);
        }
        *count += 1;
        seat.ip = Some(Box::new(ip));
        Ok(self.permit(seat))
    }

    fn permit(&self, seat: Seat) -> Permit {
        Permit {
            number: self.number(),
            seat: Some(seat),
        }
    }

    /// A connection begins with something before its protocol: a TLS handshake, HTTP. Its task is
    /// to end when it is notified.
    pub fn begin_handshake(&self, number: u64) -> Arc<Notify> {
        let told = Arc::new(Notify::new());
        self.wait_again(number, &told);
        told
    }

    /// The same for a connection that has been let go on before, and is told in the same way.
    pub(super) fn wait_again(&self, number: u64, told: &Arc<Notify>) {
        let way = Way::Task(Arc::clone(told));
        self.counts.half_open.lock().put(number, way);
        self.make_room();
    }

    /// A connection begins to speak its protocol, and has not logged in.
    pub fn begin_login(&self, number: u64, slot: &WayBack) {
        self.counts
            .half_open
            .lock()
            .put(number, Way::Link(Arc::clone(slot)));
        self.make_room();
    }

    /// Bytes came on a connection; counted while it has not logged in.
    pub fn received(&self, number: u64, bytes: usize) {
        let mut half_open = self.counts.half_open.lock();
        let Some(young) = half_open.connections.get_mut(&number) else {
            return;
        };
        young.bytes += bytes;
        half_open.bytes += bytes;
        drop(half_open);
        self.make_room();
    }

    /// Closes the oldest connections without a login while there are too many or they have sent
    /// too much: those had the longest time.
    fn make_room(&self) {
        let limits = self.settings.load().limits;
        loop {
            let surplus = self.counts.half_open.lock().surplus(limits);
            let Some(way) = surplus else { return };
            self.dismissed.inc();
            let detail = "too many connections have not logged in (limits.half_open_percent, \
                          limits.unauthenticated_size)";
            dismiss(&way, CloseReason::new(Cause::LoginTimeout, detail));
        }
    }

    /// Closes all connections that have not logged in.
    pub fn dismiss_half_open(&self, reason: &CloseReason) {
        let half_open = std::mem::take(&mut *self.counts.half_open.lock());
        for young in half_open.connections.values() {
            dismiss(&young.way, reason.clone());
        }
    }

    /// A connection has logged in, or is over.
    pub fn end_login(&self, number: u64) {
        self.counts.half_open.lock().remove(number);
    }

    /// Connections that have not logged in, and the bytes that they have sent.
    pub fn half_open(&self) -> (usize, usize) {
        let half_open = self.counts.half_open.lock();
        (half_open.connections.len(), half_open.bytes)
    }

    /// Connections there are.
    pub fn connections(&self) -> usize {
        self.counts.all.load(Ordering::Acquire)
    }
}

fn dismiss(way: &Way, reason: CloseReason) {
    let mut slot = match way {
        Way::Link(slot) => slot.lock(),
        Way::Task(told) => return told.notify_one(),
    };
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

impl Permit {
    /// The connection's number: no other of this process has it, and later ones are greater.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The place, for one who sees to [`Admission::end_login`].
    pub(super) fn into_seat(mut self) -> Option<Seat> {
        self.seat.take()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(seat) = &self.seat {
            seat.counts.half_open.lock().remove(self.number);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.counts.all.fetch_sub(1, Ordering::AcqRel);
        if let Some(ip) = self.ip.take() {
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
            half_open_bytes: 100,
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
    fn a_site_counts_as_one_address() {
        let admission = Admission::new(limits());
        let admit = |ip: &str| admission.admit(ip.parse().unwrap());
        let _first = admit("2001:db8::1").unwrap();
        let _second = admit("2001:db8::2").unwrap();
        assert_eq!(admit("2001:db8::3").unwrap_err(), Full::Address);
        let _other = admit("2001:db8:0:1::1").unwrap();
    }

    #[tokio::test]
    async fn the_oldest_without_a_login_makes_room() {
        let limits = AdmissionLimits {
            half_open: 2,
            connections: 10,
            ..limits()
        };
        let admission = Admission::new(limits);
        let permits = [(); 4].map(|()| admission.admit([127, 0, 0, 1].into()).unwrap());
        let begin = |index: usize| admission.begin_handshake(permits[index].number());
        let (first, second) = (begin(0), begin(1));
        admission.received(permits[0].number(), 60);
        assert_eq!(admission.half_open(), (2, 60));
        let third = begin(2);
        first.notified().await;
        assert_eq!(admission.half_open(), (2, 0), "one too many");
        admission.received(permits[2].number(), 40);
        // It has come further, and keeps its age and its bytes.
        let third_again = begin(2);
        admission.received(permits[1].number(), 61);
        second.notified().await;
        assert_eq!(admission.half_open(), (1, 40), "a byte too many");
        admission.end_login(permits[2].number());
        admission.received(permits[2].number(), 1000);
        assert_eq!(
            admission.half_open(),
            (0, 0),
            "after the login they are not counted"
        );
        assert_eq!(admission.dismissed.value(), 2);
        drop((third, third_again));
        begin(3);
        drop(permits);
        assert_eq!(
            admission.half_open(),
            (0, 0),
            "with its place it is forgotten"
        );
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
