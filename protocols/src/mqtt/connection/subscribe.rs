//! SUBSCRIBE and UNSUBSCRIBE: filters to requests, the broker's answers to SUBACK and UNSUBACK
//! `[MQTT-3.8]` to `[MQTT-3.11]`.

use bytestring::ByteString;
use smallvec::SmallVec;

use super::{Client, Fault};
use crate::connection::{
    Command, Granted, Lane, Output, Refusal, RefusalCode, Subscribe as Request, SubscribeRequest,
    Token, parse_filter,
};
use crate::model::FilterError;
use crate::mqtt::list::List;
use crate::mqtt::packet::{SubAck, Subscribe, Subscription, Unsubscribe};
use crate::mqtt::properties::AckProperties;
use crate::mqtt::{Packet, PacketId, ReasonCode, Version};

/// More filters in one packet than allowed, for those who count.
const TOO_MANY: Command = Command::Refused {
    reason: RefusalCode::Quota.as_str(),
};

impl Client {
    /// Asks the broker for all that can be asked for. A filter that is not one keeps its place
    /// as a refusal `[MQTT-3.8.4-6]`.
    pub(super) fn handle_subscribe(
        &mut self,
        packet: &Subscribe<'_>,
        out: &mut Output<'_>,
    ) -> Result<(), Fault> {
        let count = packet.filters.count();
        if count > self.limits.filters_per_subscribe {
            let codes = vec![ReasonCode::QuotaExceeded; count];
            out.commands.push(TOO_MANY);
            return self.put_suback(packet.packet_id, &codes, "too many filters at once", out);
        }
        let identifier = packet.properties.subscription_id;
        let requests = packet
            .filters
            .iter()
            .map(|subscription| {
                let mut request = self.request(&subscription)?;
                request.identifier = identifier;
                Ok(request)
            })
            .collect();
        out.commands.push(Command::Subscribe(Box::new(Request {
            token: token(packet.packet_id),
            requests,
        })));
        Ok(())
    }

    fn request(&self, subscription: &Subscription<'_>) -> Result<SubscribeRequest, Refusal> {
        let text = ByteString::from(subscription.filter);
        let filter = parse_filter(text.clone(), &self.limits).map_err(refused)?;
        Ok(SubscribeRequest {
            key: text,
            filter,
            // A higher one is granted as the highest [MQTT-3.2.2-10].
            qos: subscription.qos.min(self.limits.maximum_qos),
            no_local: subscription.no_local,
            retain_as_published: subscription.retain_as_published,
            retain_handling: subscription.retain_handling,
            identifier: None,
            lane: Lane::Session,
            auto_settle: false,
            durable: true,
        })
    }

    pub(super) fn handle_subscribed(
        &mut self,
        token: Token,
        results: &[Result<Granted, Refusal>],
        out: &mut Output<'_>,
    ) {
        let codes: SmallVec<[ReasonCode; 8]> = results
            .iter()
            .map(|result| match result {
                Ok(granted) => granted.qos.into(),
                Err(refusal) => super::reason::subscribe(refusal.code),
            })
            .collect();
        let detail = results
            .iter()
            .find_map(|result| result.as_ref().err())
            .map_or("", |refusal| refusal.detail.as_ref());
        let Some(packet_id) = packet_id(token) else {
            return;
        };
        if let Err(fault) = self.put_suback(packet_id, &codes, detail, out) {
            self.fail(fault, out);
        }
    }

    /// SUBACK with a code for each filter, in their order `[MQTT-3.8.4-6]` `[MQTT-3.9.3-1]`.
    fn put_suback(
        &self,
        packet_id: PacketId,
        codes: &[ReasonCode],
        detail: &str,
        out: &mut Output<'_>,
    ) -> Result<(), Fault> {
        self.put_codes(packet_id, codes, detail, out, Packet::SubAck)
    }

    /// Writes SUBACK or UNSUBACK, without the explanation if the packet is too large with it.
    fn put_codes<'a>(
        &self,
        packet_id: PacketId,
        codes: &'a [ReasonCode],
        detail: &'a str,
        out: &mut Output<'_>,
        packet: fn(SubAck<'a>) -> Packet<'a>,
    ) -> Result<(), Fault> {
        let mut ack = SubAck {
            packet_id,
            properties: AckProperties::default(),
            codes: List::new(codes),
        };
        if self.version == Version::V5 && self.problem_information && !detail.is_empty() {
            ack.properties.reason_string = Some(detail);
            if self.put(&packet(ack.clone()), out.outbox) {
                return Ok(());
            }
            ack.properties.reason_string = None;
        }
        if self.put(&packet(ack), out.outbox) {
            return Ok(());
        }
        Err(Fault::new(
            ReasonCode::PacketTooLarge,
            "the answer is larger than the client's maximum packet size",
        ))
    }

    /// `[MQTT-3.10.4]`: the text alone says which subscription ends.
    pub(super) fn handle_unsubscribe(
        &mut self,
        packet: &Unsubscribe<'_>,
        out: &mut Output<'_>,
    ) -> Result<(), Fault> {
        let count = packet.filters.count();
        if count > self.limits.filters_per_subscribe {
            return self.refuse_unsubscribe(packet.packet_id, count, out);
        }
        out.commands.push(Command::Unsubscribe {
            token: token(packet.packet_id),
            keys: packet.filters.iter().map(ByteString::from).collect(),
        });
        Ok(())
    }

    /// A 3.1.1 UNSUBACK can only say yes: the connection ends instead.
    fn refuse_unsubscribe(
        &self,
        packet_id: PacketId,
        count: usize,
        out: &mut Output<'_>,
    ) -> Result<(), Fault> {
        let detail = "too many filters at once";
        if self.version == Version::V311 {
            return Err(Fault::new(ReasonCode::QuotaExceeded, detail));
        }
        out.commands.push(TOO_MANY);
        let codes = vec![ReasonCode::ImplementationSpecificError; count];
        self.put_codes(packet_id, &codes, detail, out, Packet::UnsubAck)
    }

    /// UNSUBACK with a code for each filter `[MQTT-3.11.3-1]`, without codes in 3.1.1
    /// `[MQTT-3.10.4-4]`.
    pub(super) fn handle_unsubscribed(
        &mut self,
        token: Token,
        existed: &[bool],
        out: &mut Output<'_>,
    ) {
        let Some(packet_id) = packet_id(token) else {
            return;
        };
        let codes: SmallVec<[ReasonCode; 8]> = match self.version {
            Version::V311 => SmallVec::new(),
            Version::V5 => existed
                .iter()
                .map(|existed| match existed {
                    true => ReasonCode::Success,
                    false => ReasonCode::NoSubscriptionExisted,
                })
                .collect(),
        };
        if let Err(fault) = self.put_codes(packet_id, &codes, "", out, Packet::UnsubAck) {
            self.fail(fault, out);
        }
    }
}

fn refused(error: FilterError) -> Refusal {
    Refusal::new(RefusalCode::FilterInvalid, error.to_string())
}

fn token(packet_id: PacketId) -> Token {
    Token(u64::from(packet_id.get()))
}

fn packet_id(token: Token) -> Option<PacketId> {
    PacketId::new(u16::try_from(token.0).ok()?)
}
