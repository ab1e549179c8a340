//! The running broker: puts the parts together, serves, reloads and stops.

mod settings;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use protocols::connection::{Cause, CloseReason, Protocol};
use protocols::registry::PROTOCOLS;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::auth::access::Policy;
use crate::auth::{Authenticator, Revocations};
use crate::clock::Clock;
use crate::config::{Config, Durability, FullQueue, Listen, Persistence};
use crate::hub::{Hub, HubBounds};
use crate::net::{self, Admission, AdmissionLimits, Listener, Live, Net, Service};
use crate::router::{CacheLimits, Retained, RetainedLimits, Router};
use crate::session::{Batch, Bounds, GroupBounds, Restart};
use crate::store::{self, Journal, JournalConfig, Store};
use crate::telemetry::{LogHandle, Metrics};

/// How often it is looked whether all connections have ended, while stopping.
const DRAIN_CHECK: Duration = Duration::from_millis(20);

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
    let (stop, stopped) = watch::channel(false);
    let mut tasks = Vec::new();
    let mut first = None;
    for (listener, scheme) in bind(&config)? {
        let address = listener.address().context("a listener has no address")?;
        announce(scheme, address);
        first.get_or_insert((scheme, address));
        tasks.push(tokio::spawn(
            listener.run(Arc::clone(&net), stopped.clone()),
        ));
    }
    tasks.push(tokio::spawn(turn(Arc::clone(&net), stopped)));
    net.auth.load().prime();
    if let Some((scheme, address)) = first {
        try_it(scheme, address);
    }
    let mut server = Server {
        net,
        config,
        reload,
        log,
        descriptors,
    };
    server.serve(signals).await;
    server.stop(&stop, tasks).await;
    Ok(())
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
}

impl Server {
    /// Waits for the signal to stop; reloads at SIGHUP.
    async fn serve(&mut self, mut signals: Signals) {
        loop {
            tokio::select! {
                () = received(&mut signals.terminate) => return,
                () = received(&mut signals.interrupt) => return,
                () = received(&mut signals.hang_up) => self.reload(),
            }
        }
    }

    fn reload(&mut self) {
        let loaded = match (self.reload)() {
            Ok(loaded) => loaded,
            Err(problems) => {
                tracing::error!("the configuration was not reloaded: {problems}");
                return;
            }
        };
        let (config, changes) = self.config.reload(&loaded);
        if let Err(problem) = self.net.api.configure(&config.api) {
            tracing::error!("the configuration was not reloaded: {problem}");
            return;
        }
        let running = self.net.auth.load_full();
        let auth = Authenticator::new(
            &config,
            self.net.clock,
            Arc::clone(&self.net.hub.metrics),
            Arc::clone(running.revocations()),
            Some(&running),
        );
        match auth {
            Ok(auth) => {
                auth.prime();
                identify(&self.net, auth);
            }
            Err(error) => {
                tracing::error!("the configuration was not reloaded: {error:#}");
                return;
            }
        }
        self.log.apply(&config.log.level);
        self.net.live.store(Arc::new(live(&config)));
        self.net.hub.set_bounds(hub_bounds(&config));
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
    }

    /// Stops: no new connections, a good-bye to each client, and a bounded time to leave.
    async fn stop(&self, stop: &watch::Sender<bool>, tasks: Vec<JoinHandle<()>>) {
        tracing::info!(connections = self.net.admission.connections(), "stopping");
        stop.send_replace(true);
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a listener failed");
            }
        }
        self.net
            .stop(&CloseReason::new(Cause::Shutdown, "the broker is stopping"));
        let drained = async {
            while self.net.admission.connections() > 0 {
                tokio::time::sleep(DRAIN_CHECK).await;
                // Connections that linger have deadlines.
                self.net.timers.turn(self.net.clock.now());
                self.net
                    .stop(&CloseReason::new(Cause::Shutdown, "the broker is stopping"));
            }
        };
        let grace = self.config.limits.drain_grace;
        if tokio::time::timeout(grace, drained).await.is_err() {
            let left = self.net.admission.connections();
            tracing::warn!(
                connections = left,
                "stopped before all connections had ended"
            );
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
    loop {
        let now = net.clock.now();
        net.timers.turn(now);
        let mut batch = Batch::new(now);
        net.hub.tick(&mut batch);
        batch.finish(&net.hub.metrics);
        let due = [net.timers.until_due(now), net.hub.until_due(now)];
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
    });
    let hub = Hub::new(
        hub_bounds(config),
        router,
        retained,
        Arc::new(Metrics::default()),
        store,
    );
    hub.access.set(policy(config));
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
        permessage_deflate: config.websocket.permessage_deflate,
        pause: limits.publisher_pause,
        stall: limits.slow_consumer_timeout,
        outbox_bytes: limits.outbox_soft_size,
        http_head_bytes: limits.http_head_size,
        http_headers: limits.http_headers,
        throttling: settings::throttling(config),
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

/// Opens all listeners, so that nothing is served unless everything can be.
fn bind(config: &Config) -> anyhow::Result<Vec<(Listener, &'static str)>> {
    let raw = |name| {
        let protocol = PROTOCOLS.iter().find(|protocol| protocol.name() == name);
        protocol.map(|protocol: &&'static dyn Protocol| Service::Raw(*protocol))
    };
    let backlog = i32::try_from(config.limits.listen_backlog).unwrap_or(i32::MAX);
    let mut listeners = Vec::new();
    let (mqtt, stomp, http) = (raw("mqtt"), raw("stomp"), Some(Service::Http));
    for (key, scheme, listen, service) in [
        ("mqtt.listen", "mqtt", &config.mqtt.listen, mqtt),
        ("stomp.listen", "stomp", &config.stomp.listen, stomp),
        ("http.listen", "http", &config.http.listen, http),
        ("mqtt.tls_listen", "mqtts", &config.mqtt.tls_listen, mqtt),
        (
            "stomp.tls_listen",
            "stomps",
            &config.stomp.tls_listen,
            stomp,
        ),
        ("http.tls_listen", "https", &config.http.tls_listen, http),
    ] {
        let (Some(address), Some(service)) = (resolve(key, listen)?, service) else {
            continue;
        };
        let is_tls = key.ends_with(".tls_listen");
        let listener = Listener::bind(address, backlog, service, is_tls).with_context(|| {
            format!(
                "cannot listen on {address} ({key}, --{scheme}, POLYCAST_{})",
                key.to_uppercase().replace('.', "__")
            )
        })?;
        listeners.push((listener, scheme));
    }
    anyhow::ensure!(
        !listeners.is_empty(),
        "all listeners are off: there is nothing to serve"
    );
    Ok(listeners)
}

fn resolve(key: &str, listen: &Listen) -> anyhow::Result<Option<SocketAddr>> {
    use std::net::ToSocketAddrs;
    let Listen::At { host, port } = listen else {
        return Ok(None);
    };
    let mut found = (host.as_str(), *port)
        .to_socket_addrs()
        .with_context(|| format!("{host} ({key}) is not an address of this machine"))?;
    Ok(found.next())
}

/// One line for each listener, with the URL that clients use.
fn announce(scheme: &str, address: SocketAddr) {
    match scheme {
        "http" => {
            tracing::info!(
                "HTTP on http://{address}, WebSocket (MQTT, STOMP, JSON) on ws://{address}"
            );
        }
        "https" => tracing::info!(
            "HTTP over TLS on https://{address}, WebSocket (MQTT, STOMP, JSON) on wss://{address}"
        ),
        scheme => tracing::info!("{} on {scheme}://{address}", scheme.to_uppercase()),
    }
}

/// One line that can be copied: the program as it was started, and a listener that is there.
fn try_it(scheme: &str, address: SocketAddr) {
    let program = std::env::args().next();
    let program = program.unwrap_or_else(|| "polycast".to_owned());
    let scheme = match scheme {
        "http" => "ws",
        "https" => "wss",
        scheme => scheme,
    };
    let url = format!("{scheme}://{address}");
    tracing::info!(
        "try it: {program} subscribe {url} -v -t 'hello/#'   and   \
         {program} publish {url} -t hello/world -m hi"
    );
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
