//! No bytes make the MQTT decoder panic, in either version and on either side, and what was
//! decoded is decoded again, the same, after it was encoded.

#![no_main]

use libfuzzer_sys::fuzz_target;
use protocols::mqtt::{
    Decoded, Side, Version, decode, decode_connect, encode, encoded_len, offered_version,
};

fuzz_target!(|input: &[u8]| {
    let offered = offered_version(input);
    if let Ok(Decoded::Packet { packet, .. }) = decode_connect(input, usize::MAX) {
        assert_eq!(offered, Some(packet.version));
    }
    for version in [Version::V311, Version::V5] {
        for side in [Side::Server, Side::Client] {
            stream(input, version, side);
        }
    }
});

/// Decodes packet after packet.
fn stream(mut input: &[u8], version: Version, side: Side) {
    loop {
        match decode(input, version, side, usize::MAX) {
            Ok(Decoded::Packet { packet, consumed }) => {
                let mut again = Vec::new();
                let length = encode(&packet, version, &mut again).expect("it was decoded");
                assert_eq!(length, again.len());
                assert_eq!(encoded_len(&packet, version), Ok(length));
                let Ok(Decoded::Packet { packet: same, .. }) =
                    decode(&again, version, side, length)
                else {
                    panic!("what was encoded is not decoded");
                };
                assert_eq!(same, packet);
                input = &input[consumed..];
            }
            Ok(Decoded::NeedMore { at_least }) => return assert!(at_least > input.len()),
            Err(_) => return,
        }
    }
}
