//! Who gets a message: subscription index, route cache and retained messages. Knows messages, not bytes; does no I/O.
