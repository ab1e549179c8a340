//! The running broker: puts the parts together, serves, reloads and stops.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use protocols::connection::{Cause, CloseReason, Protocol};
use protocols::registry::PROTOCOLS;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::config::{Config, Listen};
use crate::hub::{Hub, HubBounds};
use crate::net::{Admission, AdmissionLimits, Listener, Live, Net, Service, TICK};
use crate::router::{CacheLimits, Retained, RetainedLimits, Router};
use crate::session::{Batch, Bounds, GroupBounds};
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
    std::fs::create_dir_all(&config.data_dir).with_context(|| {
        format!(
            "the data directory {} (data_dir) cannot be made",
            config.data_dir.display()
        )
    })?;
    let net = Arc::new(build(&config, descriptors));
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
        self.log.apply(&config.log.level);
        self.net.live.store(Arc::new(live(&config)));
        self.net.hub.set_bounds(hub_bounds(&config));
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
                // Connections that linger need the wheel to turn.
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
        tracing::info!("stopped");
    }
}

/// Turns the timer wheel and carries out what is due in the hub.
async fn turn(net: Arc<Net>, mut stop: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            _ = ticks.tick() => {}
        }
        let now = net.clock.now();
        net.timers.turn(now);
        let mut batch = Batch::new(now);
        net.hub.tick(&mut batch);
        batch.finish(&net.hub.metrics);
    }
}

async fn received(signal: &mut Signal) {
    if signal.recv().await.is_none() {
        // The runtime delivers no signals any more; then it is ending anyway.
        std::future::pending::<()>().await;
    }
}

fn build(config: &Config, descriptors: usize) -> Net {
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
    );
    let admission = Admission::new(admission_limits(config, descriptors));
    Net::new(Arc::new(hub), Clock::start(), admission, live(config))
}

fn hub_bounds(config: &Config) -> HubBounds {
    let limits = &config.limits;
    HubBounds {
        session: Bounds {
            queue_messages: limits.session_queue_messages,
            queue_bytes: limits.session_queue_size,
            outbox_bytes: limits.outbox_soft_size,
            outbox_hard_bytes: limits.outbox_hard_size,
        },
        group: GroupBounds {
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
    for (key, listen, service) in [
        ("mqtt", &config.mqtt.listen, raw("mqtt")),
        ("stomp", &config.stomp.listen, raw("stomp")),
        ("http", &config.http.listen, Some(Service::Http)),
    ] {
        let (Some(address), Some(service)) = (resolve(key, listen)?, service) else {
            continue;
        };
        let listener = Listener::bind(address, backlog, service).with_context(|| {
            format!(
                "cannot listen on {address} ({key}.listen, --{key}, POLYCAST_{}__LISTEN)",
                key.to_uppercase()
            )
        })?;
        listeners.push((listener, key));
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
        .with_context(|| format!("{host} ({key}.listen) is not an address of this machine"))?;
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
        scheme => tracing::info!("{} on {scheme}://{address}", scheme.to_uppercase()),
    }
}

/// One line that can be copied: the program as it was started, and a listener that is there.
fn try_it(scheme: &str, address: SocketAddr) {
    let program = std::env::args().next();
    let program = program.unwrap_or_else(|| "polycast".to_owned());
    let scheme = if scheme == "http" { "ws" } else { scheme };
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
