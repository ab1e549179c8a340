//! The sockets that the broker listens at: opened by it, or handed over by who has started it.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};

use anyhow::Context as _;
use listenfd::ListenFd;
use protocols::connection::Protocol;
use protocols::registry::PROTOCOLS;

use crate::config::{Config, Listen};
use crate::net::{Listener, Service};

/// Names of listeners, for sockets that are handed over.
const SCHEMES: [&str; 6] = ["mqtt", "stomp", "http", "mqtts", "stomps", "https"];

/// Opens all listeners, so that nothing is served unless everything can be. Sockets that were
/// handed over count for the listeners of their names; the configuration opens the others.
pub(super) fn bind(config: &Config) -> anyhow::Result<Vec<(Listener, &'static str)>> {
    let mut inherited = inherited()?;
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
        let Some(service) = service else { continue };
        let spoken = (service, key.ends_with(".tls_listen"));
        if let Some(socket) = inherited.remove(scheme) {
            listeners.push((Listener::inherited(socket, spoken)?, scheme));
            continue;
        }
        let Some(address) = resolve(key, listen)? else {
            continue;
        };
        let shared = config.drain.reuse_port;
        let listener = Listener::bind(address, backlog, shared, spoken).with_context(|| {
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

/// Sockets that were open when the broker was started, by name: socket activation as systemd does
/// it (`LISTEN_FDS`, `LISTEN_FDNAMES`).
fn inherited() -> anyhow::Result<BTreeMap<String, TcpListener>> {
    let mut handed = ListenFd::from_env();
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').filter(|name| !name.is_empty());
    let mut found = BTreeMap::new();
    for at in 0..handed.len() {
        let name = names.next().unwrap_or_default();
        anyhow::ensure!(
            SCHEMES.contains(&name),
            "the socket {at} that was handed over has the name `{name}`: write \
             FileDescriptorName= with one of {} in its unit",
            SCHEMES.join(", ")
        );
        let socket = handed.take_tcp_listener(at);
        let socket = socket.with_context(|| format!("the socket `{name}` that was handed over"))?;
        let socket = socket.with_context(|| format!("the socket `{name}` was taken already"))?;
        let before = found.insert(name.to_owned(), socket);
        anyhow::ensure!(
            before.is_none(),
            "two sockets that were handed over have the name `{name}`"
        );
    }
    Ok(found)
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
pub(super) fn announce(scheme: &str, address: SocketAddr) {
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
pub(super) fn try_it(scheme: &str, address: SocketAddr) {
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
