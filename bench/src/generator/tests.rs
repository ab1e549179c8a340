//! The generator against a broker of a few lines that does what it is told, right or wrong.

use super::client::Plan;
use super::load::Load;
use super::publisher::{Publication, Publisher};
use super::swarm::{Deaf, Swarm};
use crate::wire::Wire;
use crate::wire::url::Url;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::thread;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// How the broker treats the message with this number.
type Treatment = fn(u64) -> Treat;

#[derive(Clone, Copy)]
enum Treat {
    Deliver,
    Drop,
    Double,
}

/// Starts a broker whose first clients receive what its last client publishes.
fn broker(receivers: usize, treatment: Treatment) -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let mut streams: Vec<TcpStream> = Vec::new();
        for _ in 0..receivers {
            let (mut stream, _) = listener.accept().unwrap();
            answer_until(&mut stream, 8);
            streams.push(stream);
        }
        let (mut publisher, _) = listener.accept().unwrap();
        let mut number = 0;
        while let Some(packet) = answer_until(&mut publisher, 3) {
            if packet[0] & 6 == 2 {
                let topic = usize::from(packet[3]);
                let id = [packet[4 + topic], packet[5 + topic]];
                publisher.write_all(&[0x40, 2, id[0], id[1]]).unwrap();
            }
            let copies = match treatment(number) {
                Treat::Deliver => 1,
                Treat::Drop => 0,
                Treat::Double => 2,
            };
            number += 1;
            for stream in &mut streams {
                for _ in 0..copies {
                    // The receivers leave when they have seen enough.
                    let _ = stream.write_all(&packet);
                }
            }
        }
    });
    Url::parse(&format!("mqtt://{address}")).unwrap()
}

/// Answers CONNECT and SUBSCRIBE, and returns the first packet of this type; `None` at the end.
/// Packets of these tests have a length of one byte.
fn answer_until(stream: &mut TcpStream, kind: u8) -> Option<Vec<u8>> {
    loop {
        let mut head = [0; 2];
        stream.read_exact(&mut head).ok()?;
        let mut packet = vec![0; usize::from(head[1])];
        stream.read_exact(&mut packet).ok()?;
        match head[0] >> 4 {
            1 => stream.write_all(&[0x20, 2, 0, 0]).ok()?,
            8 => stream.write_all(&[0x90, 3, packet[0], packet[1], 1]).ok()?,
            _ => {}
        }
        if head[0] >> 4 == kind {
            return Some([&head[..], &packet].concat());
        }
    }
}

/// A load of one publisher with connections that stand.
fn load(url: &Url, swarm: &mut Swarm, receivers: usize, qos: u8) -> Load {
    let plan = |number: usize| Plan::new(format!("r{number}")).subscribed("t", qos);
    let range: Range<usize> = swarm
        .open(url, (0..receivers).map(plan), 1, PATIENCE, &mut Deaf)
        .unwrap();
    let plan = Plan::new("p");
    let client = swarm
        .open(url, [plan].into_iter(), 1, PATIENCE, &mut Deaf)
        .unwrap()
        .start;
    let what = Publication {
        topic: "t",
        topics: 1,
        qos,
        retain: false,
        payload_bytes: 20,
        window: 4,
    };
    let publisher = Publisher::new(0, client, Wire::MQTT, &what);
    Load::new(vec![publisher], range, receivers as u64)
}

#[test]
fn every_delivery_is_counted() {
    let url = broker(3, |_| Treat::Deliver);
    let mut swarm = Swarm::new().unwrap();
    let mut load = load(&url, &mut swarm, 3, 0);
    load.stop_after(1000);
    load.run_closed(&mut swarm, 90, |load| load.received == 3000)
        .unwrap();
    let verdict = load.ledger.verdict();
    assert_eq!((verdict.expected, verdict.arrived), (3000, 3000));
    assert_eq!(
        verdict.duplicates + verdict.out_of_order + verdict.foreign,
        0
    );
    assert!(load.settled());
}

#[test]
fn loss_and_duplicates_show() {
    let url = broker(1, |number| match number {
        13 => Treat::Drop,
        17 => Treat::Double,
        _ => Treat::Deliver,
    });
    let mut swarm = Swarm::new().unwrap();
    let mut load = load(&url, &mut swarm, 1, 0);
    load.stop_after(100);
    load.run_closed(&mut swarm, 90, |load| load.received == 100)
        .unwrap();
    let verdict = load.ledger.verdict();
    assert_eq!((verdict.lost(), verdict.duplicates), (1, 1));
    assert!(!load.settled());
}

#[test]
fn the_window_of_acknowledgements_is_kept_and_timed() {
    let url = broker(1, |_| Treat::Deliver);
    let mut swarm = Swarm::new().unwrap();
    let mut load = load(&url, &mut swarm, 1, 1);
    load.stop_after(200);
    load.run_closed(&mut swarm, 1000, |load| {
        assert!(load.publishers[0].unacknowledged() <= 4);
        load.acked == 200 && load.received == 200
    })
    .unwrap();
    assert_eq!(load.ack_latency.count(), 200);
}

#[test]
fn a_paced_load_measures_each_message() {
    let url = broker(1, |_| Treat::Deliver);
    let mut swarm = Swarm::new().unwrap();
    let mut load = load(&url, &mut swarm, 1, 0);
    load.run_paced(&mut swarm, 1000.0, Duration::from_millis(200), || false)
        .unwrap();
    assert!(load.received > 0);
    assert_eq!(load.latency.count(), load.received);
    assert_eq!(load.ledger.verdict().lost(), 0);
}

#[test]
fn a_connection_that_is_refused_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = Url::parse(&format!("mqtt://{}", listener.local_addr().unwrap())).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&[0x20, 2, 0, 5]).unwrap();
        // Stays open until the client leaves.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let mut swarm = Swarm::new().unwrap();
    let plans = [Plan::new("x")].into_iter();
    let error = swarm.open(&url, plans, 1, PATIENCE, &mut Deaf).unwrap_err();
    assert!(error.to_string().contains("code 5"), "{error}");
    assert!(swarm.client(0).is_none());
}
