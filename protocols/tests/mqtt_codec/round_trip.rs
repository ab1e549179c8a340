//! Properties of the MQTT codec: what is written is read back, however it is split, and no input
//! makes it panic.

use proptest::prelude::*;
use protocols::mqtt::{
    Decoded, Side, Version, decode, decode_connect, encode, encoded_len, offered_version,
};

use crate::strategies::{packet_v5, versioned};
use crate::support::{ANY_SIZE, decode_one, encode_one, receiver};

/// Packets at the front of `buffer` that one read brought; whether more may come.
fn drain(buffer: &mut Vec<u8>, version: Version, side: Side, found: &mut Vec<String>) -> bool {
    loop {
        match decode(buffer, version, side, ANY_SIZE) {
            Ok(Decoded::Packet { packet, consumed }) => {
                found.push(format!("{packet:?}"));
                buffer.drain(..consumed);
            }
            Ok(Decoded::NeedMore { at_least }) => {
                assert!(at_least > buffer.len());
                return true;
            }
            Err(error) => {
                found.push(error.to_string());
                return false;
            }
        }
    }
}

/// A stream that comes byte by byte is the same packets and the same error as one that comes
/// whole.
pub(crate) fn split_at_each_byte(stream: &[u8], version: Version, side: Side) {
    let (mut whole, mut split) = (Vec::new(), Vec::new());
    drain(&mut stream.to_vec(), version, side, &mut whole);
    let mut buffer = Vec::new();
    for byte in stream {
        buffer.push(*byte);
        if !drain(&mut buffer, version, side, &mut split) {
            break;
        }
    }
    assert_eq!(split, whole, "{stream:02x?}");
}

/// Whatever comes of it: decode everywhere, and write back what was accepted.
pub(crate) fn check_any_input(bytes: &[u8]) -> Result<(), TestCaseError> {
    let _ = offered_version(bytes);
    let _ = decode_connect(bytes, ANY_SIZE);
    for version in [Version::V311, Version::V5] {
        for side in [Side::Server, Side::Client] {
            match decode(bytes, version, side, ANY_SIZE) {
                Ok(Decoded::Packet { packet, consumed }) => {
                    prop_assert!(consumed <= bytes.len());
                    let mut again = Vec::new();
                    encode(&packet, version, &mut again).unwrap();
                    let back = decode_one(&again, version, side).unwrap();
                    prop_assert_eq!(&back, &packet);
                }
                Ok(Decoded::NeedMore { at_least }) => prop_assert!(at_least > bytes.len()),
                Err(error) => {
                    prop_assert!(error.reason().is_error());
                    prop_assert!(!error.to_string().is_empty());
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_back((version, packet) in versioned()) {
        let bytes = encode_one(&packet, version);
        prop_assert_eq!(encoded_len(&packet, version).unwrap(), bytes.len());
        prop_assert_eq!(decode_one(&bytes, version, receiver(&packet)).unwrap(), packet);
    }

    #[test]
    fn every_prefix_needs_more((version, packet) in versioned()) {
        let bytes = encode_one(&packet, version);
        for end in 0..bytes.len() {
            match decode(&bytes[..end], version, receiver(&packet), ANY_SIZE) {
                Ok(Decoded::NeedMore { at_least }) => {
                    prop_assert!(at_least > end && at_least <= bytes.len());
                }
                other => prop_assert!(false, "{end} bytes: {other:?}"),
            }
        }
    }

    #[test]
    fn a_limit_is_kept_from_the_fixed_header((version, packet) in versioned()) {
        let bytes = encode_one(&packet, version);
        let side = receiver(&packet);
        prop_assert!(decode(&bytes, version, side, bytes.len()).is_ok());
        // Its body is not there yet, but it is known to be too large.
        let header = bytes.len().min(5);
        let refused = decode(&bytes[..header], version, side, bytes.len() - 1);
        prop_assert!(refused.is_err());
    }

    #[test]
    fn any_split_gives_the_same_packets(
        packets in prop::collection::vec(packet_v5(), 1..6),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let packets: Vec<_> =
            packets.into_iter().filter(|it| receiver(it) == Side::Server).collect();
        let stream: Vec<u8> =
            packets.iter().flat_map(|it| encode_one(it, Version::V5)).collect();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.push(stream.len());
        cuts.sort_unstable();
        let (mut buffer, mut found, mut start) = (Vec::new(), Vec::new(), 0);
        for end in cuts {
            buffer.extend_from_slice(&stream[start..end]);
            start = end;
            drain(&mut buffer, Version::V5, Side::Server, &mut found);
        }
        let expected: Vec<String> = packets.iter().map(|packet| format!("{packet:?}")).collect();
        prop_assert_eq!(found, expected);
        prop_assert!(buffer.is_empty());
    }

    #[test]
    fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        check_any_input(&bytes)?;
        split_at_each_byte(&bytes, Version::V5, Side::Server);
    }

    #[test]
    fn mutated_packets_do_no_harm(
        (version, packet) in versioned(),
        mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = encode_one(&packet, version);
        for (at, value) in mutations {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        check_any_input(&bytes)?;
    }

    #[test]
    fn truncated_bodies_do_no_harm((version, packet) in versioned(), cut in any::<prop::sample::Index>()) {
        // The remaining length says less than the fields need.
        let bytes = encode_one(&packet, version);
        let body = bytes.len() - bytes[1..].iter().position(|byte| byte & 0x80 == 0).unwrap() - 2;
        let kept = cut.index(body + 1);
        let short = crate::support::packet(bytes[0], &[&bytes[bytes.len() - body..][..kept]]);
        check_any_input(&short)?;
    }
}
