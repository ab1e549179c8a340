//! `polycast simulate`: devices that are not there, as clients of a broker that is.
//!
//! Each device is a connection of its own, in the protocol that the URL names, and comes back by
//! itself when it is lost. What a device does is in a file of its own and knows no broker.

mod vehicle;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::{Args, Subcommand};
use futures_util::future::join_all;
use protocols::connection::RetainHandling;
use protocols::model::{Properties, QoS};

use super::client::{Client, Outgoing, Subscription, Target};
use super::options::{self, Connection, Ended};
use super::say;
use vehicle::Vehicle;

/// Time in which all vehicles connect, and the longest wait before one comes back.
const SPREAD: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(super) struct Simulate {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Vehicles that drive through a town; /demo/fleet on the broker's HTTP port shows them
    Fleet(Box<Fleet>),
}

/// Vehicles. Each says where it is on `PREFIX/ID/position`, and whether it is there on
/// `PREFIX/ID/status` (retained, and its last will); it obeys `PREFIX/ID/command`.
#[derive(Debug, Args)]
struct Fleet {
    #[command(flatten)]
    connection: Connection,
    /// How many vehicles
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 50,
          value_parser = clap::value_parser!(u16).range(1..=10_000))]
    devices: u16,
    /// Seconds between two positions of a vehicle
    #[arg(long, value_name = "SECS", default_value = "1", value_parser = every)]
    every: Duration,
    /// What their topics begin with
    #[arg(long, value_name = "TOPIC", default_value = "fleet")]
    prefix: String,
    /// Seconds after which to stop
    #[arg(short = 'W', long, value_name = "SECS", value_parser = options::seconds)]
    timeout: Option<Duration>,
}

fn every(text: &str) -> Result<Duration, String> {
    let every = options::seconds(text)?;
    if every < Duration::from_millis(10) {
        return Err("a vehicle has at least 0.01 seconds between two positions".to_owned());
    }
    Ok(every)
}

pub(super) fn run(arguments: &Simulate) -> ExitCode {
    let What::Fleet(fleet) = &arguments.what;
    options::run(async {
        tokio::select! {
            ended = fleet.drive() => ended,
            () = options::timeout(fleet.timeout) => Ok(Ended::Well),
            () = options::interrupted() => Ok(Ended::Interrupted),
        }
    })
}

impl Fleet {
    /// Lets all vehicles drive until something from outside ends it.
    async fn drive(&self) -> Result<Ended> {
        let target = self.connection.target()?;
        // The first shows whether there is a broker that takes them.
        self.connect(&target, 0).await?.close().await?;
        say(&format!(
            "{} vehicles on {target}, {}/+/position",
            self.devices, self.prefix
        ));
        let vehicles = (0..self.devices).map(|number| self.stay(&target, number));
        join_all(vehicles).await;
        Ok(Ended::Well)
    }

    /// One vehicle, with one connection after the other.
    async fn stay(&self, target: &Target, number: u16) {
        let mut vehicle = Vehicle::new(number);
        // Not all at the same moment, at the start or after the broker was away.
        let share = SPREAD * u32::from(number) / u32::from(self.devices);
        loop {
            tokio::time::sleep(share).await;
            let Err(error) = self.report(target, &mut vehicle).await;
            say(&format!("{}: {error:#}", vehicle.id()));
            tokio::time::sleep(SPREAD / 4).await;
        }
    }

    async fn connect(&self, target: &Target, number: u16) -> Result<Box<dyn Client>> {
        let id = Vehicle::new(number).id();
        let mut will = self.message(&id, "status", r#"{"status":"offline"}"#.to_owned());
        will.retain = true;
        self.connection
            .connect_as(target, id, will)
            .await
            .with_context(|| "a vehicle cannot connect")
    }

    /// One connection of a vehicle: says where it is and does what it is told.
    async fn report(
        &self,
        target: &Target,
        vehicle: &mut Vehicle,
    ) -> Result<std::convert::Infallible> {
        let id = vehicle.id();
        let mut client = self.connect(target, vehicle.number()).await?;
        let commands = Subscription {
            filter: format!("{}/{id}/command", self.prefix),
            qos: QoS::AtLeastOnce,
            no_local: false,
            retained: RetainHandling::DoNotSend,
        };
        client.subscribe(vec![commands]).await?;
        let mut ticks = tokio::time::interval(self.every);
        let mut told = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    vehicle.drive(self.every.as_secs_f64());
                    client.publish(self.message(&id, "position", vehicle.position())).await?;
                    if told != Some(vehicle.status()) {
                        told = Some(vehicle.status());
                        let mut status = self.message(&id, "status", vehicle.about());
                        (status.retain, status.qos) = (true, QoS::AtLeastOnce);
                        client.publish(status).await?;
                    }
                }
                command = client.next() => vehicle.obey(&command?.payload),
            }
        }
    }

    fn message(&self, id: &str, what: &str, json: String) -> Outgoing {
        Outgoing {
            topic: format!("{}/{id}/{what}", self.prefix),
            payload: Bytes::from(json),
            qos: QoS::AtMostOnce,
            retain: false,
            properties: Properties {
                content_type: Some("application/json".into()),
                ..Properties::default()
            },
            expiry_secs: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_not_said_all_the_time() {
        assert_eq!(every("0.5"), Ok(Duration::from_millis(500)));
        assert!(every("0").is_err());
        assert!(every("often").is_err());
    }
}
