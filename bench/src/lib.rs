//! Polycast's load generator and comparison with other brokers. Not built yet.
