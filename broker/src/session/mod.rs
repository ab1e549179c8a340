//! What outlives a connection, in protocol-neutral terms.
