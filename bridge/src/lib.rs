//! Polycast's bridge: events from SQS, EventBridge and NATS in, topics out. Not built yet.
