//! From the configuration to what the parts of the broker keep to.

use protocols::connection::Elsewhere;

use crate::config::{ClientAuth, ClientName, Config, Listen, TlsVersion};
use crate::guard::{GuardSettings, Rate, Subject, Threshold};
use crate::http::DrainWish;
use crate::net::{self, Throttling, TlsSettings};

/// How fast one client may send.
pub(super) fn throttling(config: &Config) -> Throttling {
    let limits = &config.limits;
    Throttling {
        messages: Rate {
            per_sec: limits.messages_per_sec.into(),
            burst: limits.message_burst.into(),
        },
        bytes: Rate {
            per_sec: limits.receive_rate as u64,
            burst: limits.receive_burst as u64,
        },
        patience: limits.rate_patience,
    }
}

/// How clients are sent away.
pub(super) fn drain(config: &Config) -> DrainWish {
    let drain = &config.drain;
    DrainWish {
        over: drain.spread,
        elsewhere: drain.server.get().map(|server| Elsewhere {
            server: server.into(),
            for_good: drain.server_moved,
        }),
    }
}

/// Who is kept out.
pub(super) fn guard(config: &Config) -> GuardSettings {
    let Config {
        limits, protection, ..
    } = config;
    let addresses = protection.banned_addresses.as_slice().iter();
    let clients = protection.banned_clients.as_slice().iter();
    let users = protection.banned_users.as_slice().iter();
    GuardSettings {
        connects: Rate {
            per_sec: limits.connections_per_ip_per_sec.into(),
            burst: limits.connection_burst_per_ip.into(),
        },
        per_user: limits.connections_per_user,
        will_bytes: limits.will_size,
        banned: addresses
            .map(|network| Subject::Address(*network))
            .chain(clients.map(|id| Subject::Client(id.as_str().into())))
            .chain(users.map(|user| Subject::User(user.as_str().into())))
            .collect(),
        bans: protection.bans,
        flapping: Threshold {
            count: protection.flapping_connects,
            window: protection.flapping_window,
            ban: protection.flapping_ban,
        },
        failed_logins: Threshold {
            count: protection.failed_logins,
            window: protection.failed_login_window,
            ban: protection.failed_login_ban,
        },
        tracked: protection.tracked,
    }
}

/// How TLS is spoken, if a listener does.
pub(super) fn tls(config: &Config) -> Option<TlsSettings> {
    let tls = &config.tls;
    let listeners = [
        &config.mqtt.tls_listen,
        &config.stomp.tls_listen,
        &config.http.tls_listen,
    ];
    if listeners.iter().all(|listen| **listen == Listen::Off) {
        return None;
    }
    Some(TlsSettings {
        certificate: tls.certificate.get()?.to_owned(),
        key: tls.key.get()?.to_owned(),
        client_ca: tls.client_ca.get().map(ToOwned::to_owned),
        client_crl: tls.client_crl.get().map(ToOwned::to_owned),
        client_auth: match tls.client_auth {
            ClientAuth::None => net::ClientAuth::None,
            ClientAuth::Optional => net::ClientAuth::Optional,
            ClientAuth::Required => net::ClientAuth::Required,
        },
        alternative_name: tls.client_name == ClientName::AlternativeName,
        old_version: tls.minimum_version == TlsVersion::V12,
        handshake: tls.handshake_timeout,
        reload: tls.reload_interval,
    })
}
