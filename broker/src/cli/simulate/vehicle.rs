//! A vehicle in a town of square blocks: it drives from crossing to crossing, uses its battery up and
//! charges it. No broker, no clock: [`Vehicle::drive`] lets a time pass.

use serde_json::json;

/// The town is so wide and high, in hundreds of metres; streets are a block apart.
const TOWN: (f64, f64) = (160.0, 90.0);
const BLOCK: f64 = 10.0;
/// Battery, in percent, below which it charges, and that a unit of the way uses.
const EMPTY: f64 = 12.0;
const USE: f64 = 0.12;
/// Percent that a second of charging gives.
const CHARGE: f64 = 2.5;

/// What a vehicle does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Driving,
    Charging,
    /// As it was told.
    Stopped,
}

/// One vehicle.
#[derive(Debug)]
pub(super) struct Vehicle {
    number: u16,
    at: (f64, f64),
    /// The crossing that it drives to.
    to: (f64, f64),
    /// Units a second.
    speed: f64,
    battery: f64,
    status: Status,
    /// State of its own dice, so that a run can be repeated.
    dice: u64,
}

impl Status {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Driving => "driving",
            Self::Charging => "charging",
            Self::Stopped => "stopped",
        }
    }
}

impl Vehicle {
    /// The vehicle of a number; the same number is the same vehicle.
    pub(super) fn new(number: u16) -> Self {
        let mut vehicle = Self {
            number,
            at: (0.0, 0.0),
            to: (0.0, 0.0),
            speed: 0.0,
            battery: 0.0,
            status: Status::Driving,
            dice: u64::from(number) + 1,
        };
        vehicle.at = (vehicle.crossing(TOWN.0), vehicle.crossing(TOWN.1));
        vehicle.to = vehicle.at;
        vehicle.speed = 1.5 + vehicle.roll() * 2.5;
        vehicle.battery = 20.0 + vehicle.roll() * 80.0;
        vehicle
    }

    /// Its name: `van-007`.
    pub(super) fn id(&self) -> String {
        format!("van-{:03}", self.number)
    }

    pub(super) const fn number(&self) -> u16 {
        self.number
    }

    pub(super) const fn status(&self) -> Status {
        self.status
    }

    /// Lets so many seconds pass.
    pub(super) fn drive(&mut self, secs: f64) {
        match self.status {
            Status::Stopped => {}
            Status::Charging => {
                self.battery = (self.battery + CHARGE * secs).min(100.0);
                if self.battery >= 100.0 {
                    self.status = Status::Driving;
                }
            }
            Status::Driving => self.go(self.speed * secs),
        }
    }

    /// Does what `{"command":"stop"}` or `{"command":"go"}` says; anything else is passed over.
    pub(super) fn obey(&mut self, command: &[u8]) {
        let command: serde_json::Value = serde_json::from_slice(command).unwrap_or_default();
        match (command["command"].as_str(), self.status) {
            (Some("stop"), _) => self.status = Status::Stopped,
            (Some("go"), Status::Stopped) => self.status = Status::Driving,
            _ => {}
        }
    }

    /// Where it is, as JSON.
    pub(super) fn position(&self) -> String {
        let round = |value: f64| (value * 100.0).round() / 100.0;
        let is_moving = self.status == Status::Driving;
        json!({
            "x": round(self.at.0),
            "y": round(self.at.1),
            "speed": if is_moving { round(self.speed * 12.0) } else { 0.0 },
            "battery": self.battery.round(),
        })
        .to_string()
    }

    /// What it is and does, as JSON.
    pub(super) fn about(&self) -> String {
        json!({"status": self.status.as_str(), "name": self.id()}).to_string()
    }

    fn go(&mut self, way: f64) {
        let mut left = way;
        self.battery = (self.battery - way * USE).max(0.0);
        if self.battery < EMPTY {
            self.status = Status::Charging;
            return;
        }
        while left > 0.0 {
            let (dx, dy) = (self.to.0 - self.at.0, self.to.1 - self.at.1);
            // Along the streets, never across a block: one of them is zero.
            let far = dx.abs() + dy.abs();
            if far > left {
                self.at.0 += dx / far * left;
                self.at.1 += dy / far * left;
                return;
            }
            self.at = self.to;
            left -= far;
            self.turn();
        }
    }

    /// Chooses the next crossing.
    fn turn(&mut self) {
        let (along, forward) = (self.roll() < 0.5, self.roll() < 0.5);
        let step = if forward { BLOCK } else { -BLOCK };
        let turned = |at: f64, size: f64| {
            let next = at + step;
            // At the edge of the town it turns round.
            if (0.0..=size).contains(&next) {
                next
            } else {
                at - step
            }
        };
        if along {
            self.to.0 = turned(self.at.0, TOWN.0);
        } else {
            self.to.1 = turned(self.at.1, TOWN.1);
        }
    }

    fn crossing(&mut self, size: f64) -> f64 {
        (self.roll() * (size / BLOCK)).floor() * BLOCK
    }

    /// A number from 0 to 1 (splitmix64).
    fn roll(&mut self) -> f64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.dice;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let high = u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap_or(0);
        f64::from(high) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_on_a_street(vehicle: &Vehicle) -> bool {
        let off = |value: f64| (value / BLOCK - (value / BLOCK).round()).abs();
        let inside =
            (0.0..=TOWN.0).contains(&vehicle.at.0) && (0.0..=TOWN.1).contains(&vehicle.at.1);
        inside && (off(vehicle.at.0) < 1e-6 || off(vehicle.at.1) < 1e-6)
    }

    #[test]
    fn it_keeps_to_the_streets_and_charges_in_time() {
        for number in 0..20 {
            let mut vehicle = Vehicle::new(number);
            let mut charged = false;
            for _ in 0..2000 {
                vehicle.drive(1.0);
                assert!(is_on_a_street(&vehicle), "{vehicle:?}");
                assert!(vehicle.battery > 0.0, "{vehicle:?}");
                charged |= vehicle.status() == Status::Charging;
            }
            assert!(charged, "{vehicle:?}");
        }
    }

    #[test]
    fn the_same_number_is_the_same_vehicle() {
        let mut one = Vehicle::new(7);
        let mut other = Vehicle::new(7);
        for _ in 0..100 {
            one.drive(1.0);
            other.drive(1.0);
        }
        assert_eq!(one.position(), other.position());
        assert_ne!(one.position(), Vehicle::new(8).position());
        assert_eq!(one.id(), "van-007");
    }

    #[test]
    fn it_does_as_it_is_told() {
        let mut vehicle = Vehicle::new(1);
        vehicle.obey(br#"{"command":"stop"}"#);
        let before = vehicle.position();
        vehicle.drive(10.0);
        assert_eq!(
            (vehicle.position(), vehicle.status()),
            (before, Status::Stopped)
        );
        vehicle.obey(b"not json");
        assert_eq!(vehicle.status(), Status::Stopped);
        vehicle.obey(br#"{"command":"go"}"#);
        assert_eq!(vehicle.status(), Status::Driving);
    }
}
