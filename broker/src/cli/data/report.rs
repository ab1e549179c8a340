//! What `stats` and `verify` print.

use std::fmt::{self, Display, Formatter, Write as _};
use std::path::Path;

use serde::Serialize;

use crate::store::{Inspection, RecoveredQueue};

/// What a store holds and what it takes. Sizes are bytes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stats {
    format: u32,
    sessions: u64,
    /// Sessions that had a connection when they were written last.
    connected: u64,
    subscriptions: u64,
    /// Groups of shared subscriptions.
    groups: u64,
    /// Queues of competing consumers.
    queues: u64,
    /// Sessions, lanes and groups with messages.
    backlogs: u64,
    messages: u64,
    /// As memory counts them, once for each backlog.
    message_bytes: u64,
    /// Of the longest backlog.
    most_messages: u64,
    accepted_packet_ids: u64,
    retained: u64,
    retained_bytes: u64,
    wills: u64,
    idempotency_keys: u64,
    units: u64,
    segments: u64,
    journal_bytes: u64,
    live_bytes: u64,
    /// Bytes of a write that a crash tore; the next start cuts it.
    torn_bytes: u64,
    /// Places that do not verify.
    damaged: u64,
}

impl Stats {
    /// Counts what was found.
    pub(super) fn of(inspection: &Inspection) -> Self {
        let recovered = &inspection.recovered;
        let sessions = &recovered.sessions;
        let groups = &recovered.groups;
        let backlogs: Vec<RecoveredQueue> = sessions
            .iter()
            .flat_map(|session| session.queues.iter().copied())
            .chain(groups.iter().map(|group| group.queue))
            .filter(|queue| queue.messages > 0)
            .collect();
        let shared = groups.iter().filter(|group| group.record.share.is_some());
        let shared = shared.count() as u64;
        Self {
            format: inspection.format,
            sessions: sessions.len() as u64,
            connected: sessions.iter().filter(|it| it.record.connected).count() as u64,
            subscriptions: sessions
                .iter()
                .map(|it| it.subscriptions.len() as u64)
                .sum(),
            groups: shared,
            queues: groups.len() as u64 - shared,
            backlogs: backlogs.len() as u64,
            messages: backlogs.iter().map(|queue| queue.messages as u64).sum(),
            message_bytes: backlogs.iter().map(|queue| queue.bytes as u64).sum(),
            most_messages: backlogs
                .iter()
                .map(|it| it.messages as u64)
                .max()
                .unwrap_or(0),
            accepted_packet_ids: sessions.iter().map(|it| it.accepted.len() as u64).sum(),
            retained: recovered.retained.len() as u64,
            retained_bytes: recovered.retained.iter().map(|it| it.size() as u64).sum(),
            wills: sessions
                .iter()
                .filter(|it| it.record.will.is_some())
                .count() as u64,
            idempotency_keys: recovered.keys.len() as u64,
            units: inspection.last,
            segments: inspection.segments,
            journal_bytes: inspection.journal_bytes,
            live_bytes: inspection.live_bytes,
            torn_bytes: inspection
                .torn
                .as_ref()
                .map_or(0, |it| it.bytes.len() as u64),
            damaged: inspection.damage.len() as u64,
        }
    }
}

impl Display for Stats {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let live = percent(self.live_bytes, self.journal_bytes);
        writeln!(f, "format             {}", self.format)?;
        writeln!(
            f,
            "sessions           {} ({} connected when written last, {} with a will)",
            self.sessions, self.connected, self.wills
        )?;
        writeln!(f, "subscriptions      {}", self.subscriptions)?;
        writeln!(f, "groups             {}", self.groups)?;
        writeln!(f, "queues             {}", self.queues)?;
        writeln!(
            f,
            "queued messages    {} in {} backlogs, {} ({} in the longest)",
            self.messages,
            self.backlogs,
            Size(self.message_bytes),
            self.most_messages
        )?;
        writeln!(f, "open QoS 2 ids     {}", self.accepted_packet_ids)?;
        writeln!(
            f,
            "retained messages  {}, {}",
            self.retained,
            Size(self.retained_bytes)
        )?;
        writeln!(f, "idempotency keys   {}", self.idempotency_keys)?;
        writeln!(
            f,
            "journal            {} segments, {}, {live} % live, {} units so far",
            self.segments,
            Size(self.journal_bytes),
            self.units
        )?;
        if self.torn_bytes > 0 {
            let torn = Size(self.torn_bytes);
            writeln!(f, "torn write         {torn} at the end, to be cut")?;
        }
        if self.damaged > 0 {
            let damaged = self.damaged;
            writeln!(f, "damage             {damaged} places, see `verify`")?;
        }
        Ok(())
    }
}

/// What `verify` found.
pub(super) fn verdict(directory: &Path, inspection: &Inspection) -> String {
    let mut text = String::new();
    let at = directory.display();
    for damage in &inspection.damage {
        let _ = writeln!(text, "{at}/{damage}");
    }
    if let Some(torn) = &inspection.torn {
        let _ = writeln!(
            text,
            "{at}/{torn}; it was never acknowledged, the next start cuts it"
        );
    }
    let _ = writeln!(
        text,
        "{at}: {} records in {} segments, {}",
        inspection.records,
        inspection.segments,
        match inspection.damage.len() {
            0 => "all right".to_owned(),
            1 => "1 place is damaged".to_owned(),
            count => format!("{count} places are damaged"),
        }
    );
    text
}

fn percent(part: u64, whole: u64) -> u64 {
    part.saturating_mul(100).checked_div(whole).unwrap_or(0)
}

/// Bytes for people.
struct Size(u64);

impl Display for Size {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut unit = "bytes";
        // Tenths are enough, and need no floats.
        let mut tenths = self.0.saturating_mul(10);
        for next in ["KiB", "MiB", "GiB", "TiB"] {
            if tenths < 10_240 {
                break;
            }
            tenths /= 1024;
            unit = next;
        }
        if unit == "bytes" {
            return write!(f, "{} bytes", self.0);
        }
        write!(f, "{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1.0 KiB"),
            (1_600_000, "1.5 MiB"),
            (16 * 1024 * 1024 * 1024, "16.0 GiB"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
        }
        assert_eq!((percent(1, 0), percent(1, 4)), (0, 25));
    }
}
