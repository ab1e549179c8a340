//! Which subprotocol a WebSocket speaks: `Sec-WebSocket-Protocol` in, a choice or a refusal out.
