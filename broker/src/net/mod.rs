//! Listeners and the tasks that drive connections: bytes, not meanings.
