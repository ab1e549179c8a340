//! End-to-end tests with clients that we did not write; see `tests/run`.
