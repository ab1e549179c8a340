//! Who clients are and what they may do.
//!
//! - [`Identity`]: who a client is, as found out at its login, whatever proved it.
//! - [`access`]: what it may do.
//! - [`Authenticator`]: the methods in their order: `certificate`, [`token`] with [`signature`]
//!   and [`jwks`], [`passwords`], [`callback`].
//! - [`SigningKey`]: signs tokens, on the command line alone.
//! - [`Credentials`]: what a client brings; [`Door`]: what is known before it says a word.
//! - [`Revocation`]: the end of credentials before their time.
//!
//! It knows no sockets of clients and no sessions: `net` asks it before a client is let in, and
//! the `hub` asks it for each thing that a client wants to do.

pub mod access;
mod authenticator;
mod callback;
mod credentials;
pub(crate) mod fetch;
mod gate;
mod identity;
mod jwks;
pub(crate) mod passwords;
pub(crate) mod reach;
mod request;
mod revocation;
mod signature;
mod signing;
pub mod stored;
mod token;

use argon2::password_hash::rand_core::{OsRng, RngCore as _};

pub use authenticator::{Answer, Asking, Authenticator};
pub use credentials::{Credentials, Door, Rejection};
pub use identity::{Identity, Method};
pub use request::token_of_request;
pub use revocation::{Remembered, Revocation, Revocations, Revoked, Subject};
pub use signature::Algorithm;
pub use signing::SigningKey;

/// Bytes that nobody can guess.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    OsRng.fill_bytes(&mut bytes);
    bytes
}
