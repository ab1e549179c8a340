//! The running broker: puts the parts together, serves, reloads and stops.

mod drain;
mod listeners;
mod memory;
mod settings;
mod spans;
mod system;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::auth::access::Policy;
use crate::auth::{Authenticator, Revocations};
use crate::clock::Clock;
use crate::config::{Changes, Config, Durability, FullQueue, Persistence};
use crate::functions::Functions;
use crate::guard::MemoryBounds;
use crate::http::{DrainWish, Order, Reloaded};
use crate::hub::{Hub, HubBounds};
use crate::net::{self, Admission, AdmissionLimits, Live, Net};
use crate::router::{CacheLimits, Retained, RetainedLimits, Router, Users};
use crate::session::{Batch, Bounds, GroupBounds, Restart};
use crate::store::{self, Journal, JournalConfig, Store};
use crate::telemetry::{LogHandle, Metrics};
use memory::MemoryWatch;
use system::SystemTopics;

/// How often it is looked whether all connections have ended, while stopping.
const DRAIN_CHECK: Duration = Duration::from_millis(20);

/// How long a stopping broker waits for the collector of its spans.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// Reads the configuration again, for SIGHUP.
pub type Reload = Box<dyn Fn() -> Result<Config, String> + Send>;

/// Runs the broker until SIGTERM or SIGINT, and stops it in good order.
pub async fn run(config: Config, reload: Reload, log: LogHandle) -> anyhow::Result<()> {
    // Before anybody can know of us: a signal that comes earlier would end the process at once.
    let signals = Signals::new()?;
    let descriptors = raise_descriptors();
    // What the broker writes holds what clients said: it is for its own user alone.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let clock = Clock::start();
    let net = Arc::new(open(&config, descriptors, clock)?);
    let auth = Authenticator::new(
        &config,
        clock,
        Arc::clone(&net.hub.metrics),
        Arc::new(revocations(&config)?),
        None,
    )?;
    identify(&net, auth);
    if let Some(settings) = settings::tls(&config) {
        net.tls.load(&settings).map_err(anyhow::Error::msg)?;
        net.hub.metrics.tls.set_expiry(net.tls.expires_at());
        tokio::spawn(net::watch_tls(Arc::clone(&net), clock));
    }
    net.api.configure(&config.api).map_err(anyhow::Error::msg)?;
    if let Some(functions) = Functions::open(&config, &net.hub, clock)? {
        functions.start(&net);
        // It is set here alone.
        let _ = net.functions.set(functions);
    }
    let (close, closed) = watch::channel(false);
    let (stop, stopped) = watch::channel(false);
    let mut accepting = Vec::new();
    let mut first = None;
    for (listener, scheme) in listeners::bind(&config)? {
        let address = listener.address().context("a listener has no address")?;
        listeners::announce(scheme, address);
        first.get_or_insert((scheme, address));
        accepting.push(tokio::spawn(listener.run(Arc::clone(&net), closed.clone())));
    }
    let exporting = config.telemetry.otlp_traces.0.clone().map(|collector| {
        net.hub.spans.switch_on();
        tokio::spawn(spans::export(Arc::clone(&net), collector, stopped.clone()))
    });
    let turning = tokio::spawn(turn(Arc::clone(&net), stopped));
    net.auth.load().prime();
    if let Some((scheme, address)) = first {
        listeners::try_it(scheme, address);
    }
    let mut server = Server {
        net,
        config,
        reload,
        log,
        descriptors,
        signals,
        tasks: Tasks {
            close,
            accepting,
            stop,
            turning,
            exporting,
        },
    };
    let wish = server.serve().await;
    server.stop(wish).await;
    Ok(())
}

/// What runs besides the connections, and how it is ended.
struct Tasks {
    /// Closes the listeners.
    close: watch::Sender<bool>,
    accepting: Vec<JoinHandle<()>>,
    /// Stops the clock's work.
    stop: watch::Sender<bool>,
    turning: JoinHandle<()>,
    /// Sends spans to a collector, if there is one.
    exporting: Option<JoinHandle<()>>,
}

/// What the system may tell the process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }
}

struct Server {
    net: Arc<Net>,
    config: Config,
    reload: Reload,
    log: LogHandle,
    descriptors: usize,
    signals: Signals,
    tasks: Tasks,
}

impl Server {
    /// Waits for the signal to stop, or the order to drain; reloads at SIGHUP and when asked to.
    async fn serve(&mut self) -> Option<DrainWish> {
        let mut orders = self.net.api.control.orders();
        loop {
            tokio::select! {
                () = received(&mut self.signals.terminate) => return None,
                () = received(&mut self.signals.interrupt) => return None,
                () = received(&mut self.signals.hang_up) => {
                    // The log has said how that went.
                    let _ = self.reload();
                }
                Some(order) = orders.recv() => match order {
                    Order::Drain(wish) => return Some(wish),
                    Order::Reload(answer) => {
                        let reloaded = self.reload().map(|changes| Reloaded {
                            applied: changes.applied,
                            need_restart: changes.need_restart,
                        });
                        // Who asked may have gone.
                        let _ = answer.send(reloaded);
                    }
                },
            }
        }
    }

    fn reload(&mut self) -> Result<Changes, String> {
        let reloaded = self.try_reload();
        if let Err(problem) = &reloaded {
            tracing::error!("the configuration was not reloaded: {problem}");
        }
        reloaded
    }

    fn try_reload(&mut self) -> Result<Changes, String> {
        let loaded = (self.reload)()?;
        let (config, changes) = self.config.reload(&loaded);
        self.net.api.configure(&config.api)?;
        let running = self.net.auth.load_full();
        let auth = Authenticator::new(
            &config,
            self.net.clock,
            Arc::clone(&self.net.hub.metrics),
            Arc::clone(running.revocations()),
            Some(&running),
        );
        let auth = auth.map_err(|error| format!("{error:#}"))?;
        auth.prime();
        identify(&self.net, auth);
        self.log.apply(&config.log.level);
        self.net.live.store(Arc::new(live(&config)));
        self.net.hub.set_bounds(hub_bounds(&config));
        self.net
            .hub
            .access
            .check_sources(config.access.check_retained_publishers);
        let policy = policy(&config);
        if *self.net.hub.access.policy() != policy {
            self.net.hub.set_policy(policy, self.net.clock.now());
        }
        self.net.hub.guard.set(settings::guard(&config));
        let closed = self.net.hub.close_banned(self.net.clock.now());
        if closed > 0 {
            tracing::info!("{closed} connections of banned clients are closed");
        }
        if let Some(settings) = settings::tls(&config) {
            net::reload_tls(&self.net, &settings);
        }
        self.net
            .admission
            .set_limits(admission_limits(&config, self.descriptors));
        self.config = config;
        for change in &changes.applied {
            tracing::info!("reloaded: {change}");
        }
        for change in &changes.need_restart {
            tracing::warn!("not reloaded: {change}");
        }
        if changes.applied.is_empty() && changes.need_restart.is_empty() {
            tracing::info!("the configuration was read again; nothing has changed");
        }
        Ok(changes)
    }

    /// Stops: no new connections, a good-bye to each client, and a bounded time to leave.
    async fn stop(mut self, wish: Option<DrainWish>) {
        tracing::info!(connections = self.net.admission.connections(), "stopping");
        let began = Instant::now();
        let is_asked = wish.is_some();
        self.close().await;
        let reason = self.drain(wish).await;
        self.tasks.stop.send_replace(true);
        if let Err(error) = (&mut self.tasks.turning).await {
            tracing::error!(%error, "the clock's work failed");
        }
        if let Some(exporting) = self.tasks.exporting.take() {
            // What a collector does not take by then is lost.
            let _ = tokio::time::timeout(LAST_SPANS, exporting).await;
        }
        self.net.stop(&reason);
        let drained = async {
            while self.net.admission.connections() > 0 {
                tokio::time::sleep(DRAIN_CHECK).await;
                // Connections that linger have deadlines.
                self.net.timers.turn(self.net.clock.now());
                self.net.stop(&reason);
            }
        };
        let mut grace = self.config.limits.drain_grace;
        if !is_asked {
            // At a signal it is the time for all of it.
            grace = grace.saturating_sub(began.elapsed());
        }
        if tokio::time::timeout(grace, drained).await.is_err() {
            let left = self.net.admission.connections();
            tracing::warn!(
                connections = left,
                "stopped before all connections had ended"
            );
        }
        if let Some(functions) = self.net.functions.get() {
            functions.stop();
        }
        if let Some(store) = self.net.hub.store() {
            let store = Arc::clone(store);
            // It waits for the disk, which no task may.
            let closed = tokio::task::spawn_blocking(move || store.close()).await;
            if let Err(error) = closed {
                tracing::error!(%error, "the store was not closed in good order");
            }
        }
        tracing::info!("stopped");
    }
}

/// Finds out who clients are in this way from now on.
fn identify(net: &Net, auth: Arc<Authenticator>) {
    net.hub.set_owned(auth.is_on());
    net.auth.store(auth);
}

/// What was revoked before, if anything is kept.
fn revocations(config: &Config) -> anyhow::Result<Revocations> {
    let max = config.auth.revocations;
    if config.store.persistence == Persistence::None {
        return Ok(Revocations::new(max));
    }
    Ok(Revocations::open(&config.data_dir, max)?)
}

/// Meets the deadlines of connections, and those of the hub. It sleeps until the first of them.
async fn turn(net: Arc<Net>, mut stop: watch::Receiver<bool>) {
    let mut system = SystemTopics::new(&net);
    let mut memory = MemoryWatch::default();
    loop {
        let now = net.clock.now();
        net.timers.turn(now);
        let mut batch = Batch::new(now);
        net.hub.tick(&mut batch);
        if let Some(functions) = net.functions.get() {
            functions.tick(now);
        }
        batch.finish(&net.hub.metrics);
        system.turn(&net);
        memory.turn(&net);
        let due = [
            net.timers.until_due(now),
            net.hub.until_due(now),
            system.until_due(&net),
            memory.until_due(&net),
            net.functions.get().and_then(|held| held.until_due(now)),
        ];
        let sleep = async {
            match due.into_iter().flatten().min() {
                Some(span) => tokio::time::sleep(span).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            () = net.timers.earlier() => {}
            () = net.hub.earlier.notified() => {}
            () = sleep => {}
        }
    }
}

async fn received(signal: &mut Signal) {
    if signal.recv().await.is_none() {
        // The runtime delivers no signals any more; then it is ending anyway.
        std::future::pending::<()>().await;
    }
}

/// Opens the store and builds the broker around what was in it.
fn open(config: &Config, descriptors: usize, clock: Clock) -> anyhow::Result<Net> {
    if config.store.persistence == Persistence::None {
        tracing::warn!(
            "nothing is kept (store.persistence = \"none\"): sessions, queues and retained \
             messages end with the broker"
        );
        return Ok(build(config, descriptors, clock, None));
    }
    let began = Instant::now();
    let (journal, recovered) = Journal::open(journal_config(config), clock.now())?;
    let (sessions, retained) = (recovered.sessions.len(), recovered.retained.len());
    let net = build(config, descriptors, clock, Some(Arc::clone(&journal) as _));
    let restart = Restart {
        now: net.clock.now(),
        grace_secs: u32::try_from(config.store.recovery_grace.as_secs()).unwrap_or(u32::MAX),
    };
    net.hub.restore(recovered, restart);
    let stats = journal.stats();
    tracing::info!(
        sessions,
        retained,
        messages = stats.stored_messages,
        bytes = stats.journal_bytes,
        "store in {} opened in {:.0?}, durability {}",
        config.data_dir.display(),
        began.elapsed(),
        config.store.durability,
    );
    if config.store.durability != Durability::Fsync {
        tracing::warn!(
            "store.durability is {}: what is acknowledged may be lost when the machine fails",
            config.store.durability
        );
    }
    Ok(net)
}

fn journal_config(config: &Config) -> JournalConfig {
    let bytes = |size: usize| u64::try_from(size).unwrap_or(u64::MAX);
    JournalConfig {
        durability: match config.store.durability {
            Durability::Fsync => store::Durability::Fsync,
            Durability::Interval(every) => store::Durability::Interval(every),
            Durability::None => store::Durability::None,
        },
        segment_bytes: bytes(config.store.segment_size),
        max_bytes: bytes(config.limits.store_size),
        min_free_bytes: bytes(config.limits.store_free_min),
        max_keys: config.limits.idempotency_keys,
        ..JournalConfig::new(&config.data_dir)
    }
}

fn build(config: &Config, descriptors: usize, clock: Clock, store: Option<Arc<dyn Store>>) -> Net {
    let limits = &config.limits;
    let router = Router::new(CacheLimits {
        topics: limits.route_cache_topics,
        ..CacheLimits::default()
    });
    let retained = Retained::new(RetainedLimits {
        messages: limits.retained_messages,
        bytes: limits.retained_size,
    })
    .for_users(Users {
        messages: limits.retained_messages_per_user,
        bytes: limits.retained_size_per_user,
        of: crate::auth::stored::holder_of,
    });
    let hub = Hub::new(
        hub_bounds(config),
        router,
        retained,
        Arc::new(Metrics::default()),
        store,
    );
    hub.access.set(policy(config));
    hub.access
        .check_sources(config.access.check_retained_publishers);
    hub.guard.set(settings::guard(config));
    let admission = Admission::new(admission_limits(config, descriptors));
    Net::new(hub, clock, admission, live(config))
}

/// The rules, and what holds where they say nothing.
fn policy(config: &Config) -> Policy {
    let policy = config.access.policy(!config.auth.methods.0.is_empty());
    if !policy.unmatched && policy.rules.is_empty() {
        tracing::warn!(
            "there are no access rules: clients may do nothing but what their tokens allow \
             (write [[access.rules]], or access.unmatched = \"allow\")"
        );
    }
    policy
}

fn hub_bounds(config: &Config) -> HubBounds {
    let limits = &config.limits;
    let session = Bounds {
        queue_messages: limits.session_queue_messages,
        queue_bytes: limits.session_queue_size,
        drop_oldest: limits.full_queue_drops == FullQueue::Oldest,
        memory_bytes: limits.stored_queue_memory,
        spare_bytes: limits.stored_queues_memory,
        outbox_bytes: limits.outbox_soft_size,
        outbox_hard_bytes: limits.outbox_hard_size,
    };
    HubBounds {
        session,
        stored_session: Bounds {
            queue_messages: limits.stored_queue_messages,
            queue_bytes: limits.stored_queue_size,
            ..session
        },
        group: GroupBounds {
            memory_bytes: limits.stored_queue_memory,
            stored_messages: limits.stored_queue_messages,
            stored_bytes: limits.stored_queue_size,
            messages: limits.group_queue_messages,
            bytes: limits.group_queue_size,
            total_bytes: limits.group_queues_size,
        },
        groups: limits.groups,
        subscriptions: limits.subscriptions_per_session,
        sessions: limits.sessions,
        sessions_per_user: limits.sessions_per_user,
        retain_available: config.mqtt.retain_available,
        idempotency_keys: limits.idempotency_keys,
        idempotency_ms: u64::try_from(limits.idempotency_window.as_millis()).unwrap_or(u64::MAX),
    }
}

fn live(config: &Config) -> Live {
    let limits = &config.limits;
    Live {
        limits: Arc::new(config.protocol_limits()),
        allowed_origins: config.websocket.allowed_origins.as_slice().to_vec(),
        metrics: config.http.metrics,
        pages: config.pages.clone(),
        permessage_deflate: config.websocket.permessage_deflate,
        pause: limits.publisher_pause,
        stall: limits.slow_consumer_timeout,
        outbox_bytes: limits.outbox_soft_size,
        http_head_bytes: limits.http_head_size,
        http_headers: limits.http_headers,
        throttling: settings::throttling(config),
        drain: settings::drain(config),
        sys_interval: config.telemetry.sys_interval,
        memory: MemoryBounds {
            high: memory::percent(limits.memory, limits.memory_high),
            max: memory::percent(limits.memory, limits.memory_max),
        },
    }
}

fn admission_limits(config: &Config, descriptors: usize) -> AdmissionLimits {
    let limits = &config.limits;
    // A fifth of the descriptors is left for files, listeners and what is being accepted.
    let connections = limits.connections.min(descriptors / 5 * 4);
    let percent = usize::try_from(limits.half_open_percent).unwrap_or(100);
    AdmissionLimits {
        connections,
        per_ip: limits.connections_per_ip,
        per_sec: limits.connections_per_sec,
        burst: limits.connection_burst,
        half_open: (connections / 100 * percent).max(16),
        half_open_bytes: limits.unauthenticated_size,
    }
}

/// Raises the soft limit of open files to the hard one and returns it.
fn raise_descriptors() -> usize {
    let raised = rlimit::increase_nofile_limit(u64::MAX);
    match raised {
        Ok(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
        Err(error) => {
            tracing::warn!(%error, "the limit of open files could not be raised");
            rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(1024, |(soft, _)| {
                usize::try_from(soft).unwrap_or(usize::MAX)
            })
        }
    }
}
