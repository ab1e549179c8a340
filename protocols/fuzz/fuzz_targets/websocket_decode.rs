//! Any bytes into the WebSocket decoder, at once and split: the same events, bounded, no panic.
//!
//! The first byte chooses the configuration, the second how the rest is split.

#![no_main]

use libfuzzer_sys::fuzz_target;
use protocols::model::Timestamp;
use protocols::websocket::{Accepts, Config, Decoder, Event};

const MESSAGE_BYTES: usize = 4096;

fuzz_target!(|data: &[u8]| {
    let [choice, split, bytes @ ..] = data else {
        return;
    };
    let config = Config {
        whole: choice & 1 != 0,
        accepts: [Accepts::Both, Accepts::Text, Accepts::Binary][usize::from(choice >> 1) % 3],
        deflate: choice & 0x80 != 0,
        message_bytes: MESSAGE_BYTES,
        fragments: 16,
        controls_per_sec: 16,
    };
    let at_once = decode(config, bytes, bytes.len().max(1));
    let in_pieces = decode(config, bytes, usize::from(*split).max(1));
    assert_eq!(at_once, in_pieces);
});

/// What was seen, the pieces of a message put together.
fn decode(config: Config, bytes: &[u8], size: usize) -> Vec<String> {
    let mut decoder = Decoder::new(config);
    let mut seen = Vec::new();
    let mut message = Vec::new();
    for piece in bytes.chunks(size) {
        let mut piece = piece.to_vec();
        let mut input = &mut piece[..];
        while let Some(event) = decoder.decode(&mut input, Timestamp(0)).transpose() {
            match event {
                Ok(Event::Data { kind, bytes, last }) => {
                    message.extend_from_slice(bytes);
                    assert!(message.len() <= MESSAGE_BYTES);
                    if last {
                        seen.push(format!("{kind:?} {message:x?}"));
                        message.clear();
                    }
                }
                Ok(event) => seen.push(format!("{event:?}")),
                Err(fault) => seen.push(format!("{fault:?}")),
            }
        }
        assert!(input.is_empty());
    }
    seen
}
