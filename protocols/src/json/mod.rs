//! The native JSON subprotocol, `polycast.json.v1`.
