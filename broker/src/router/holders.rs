//! How many retained messages each user has.
//!
//! Whose a message is, is for the hub to say ([`Users::of`]): here users are names. Counted under
//! the lock of the messages, and only while users have a bound.

use std::sync::Arc;

use bytestring::ByteString;
use hashbrown::HashMap;
use protocols::model::Message;

use super::RetainedFull;

/// What one user's retained messages may come to, and whose a message is.
#[derive(Clone, Copy, Debug)]
pub struct Users {
    /// Messages of one user; 0 for no bound.
    pub messages: usize,
    /// Bytes of one user's messages; 0 for no bound.
    pub bytes: usize,
    /// The user that what is said of a publisher speaks of.
    pub of: fn(source: &str) -> Option<ByteString>,
}

/// See the module.
pub(super) struct Holders {
    users: Users,
    held: HashMap<ByteString, Held>,
    /// What was read last: a client's messages share what is said of it.
    last: Option<(Arc<str>, Option<ByteString>)>,
}

/// What one user has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

impl Holders {
    /// Nobody has anything yet; `None` if nobody has a bound.
    pub(super) fn new(users: Users) -> Option<Self> {
        (users.messages > 0 || users.bytes > 0).then(|| Self {
            users,
            held: HashMap::new(),
            last: None,
        })
    }

    /// Whose a message is; nobody's if its publisher is not a client.
    pub(super) fn user(&mut self, message: &Message) -> Option<ByteString> {
        let source = message.source.as_ref()?;
        if let Some((last, user)) = &self.last
            && Arc::ptr_eq(last, source)
        {
            return user.clone();
        }
        let user = (self.users.of)(source);
        self.last = Some((Arc::clone(source), user.clone()));
        user
    }

    /// What a user has.
    pub(super) fn held(&self, user: &str) -> Held {
        self.held.get(user).copied().unwrap_or_default()
    }

    /// Whether a user may have that much.
    pub(super) fn check(&self, held: Held) -> Result<(), RetainedFull> {
        let Users {
            messages, bytes, ..
        } = self.users;
        if messages > 0 && held.messages > messages {
            return Err(RetainedFull::UserMessages { max: messages });
        }
        if bytes > 0 && held.bytes > bytes {
            return Err(RetainedFull::UserBytes { max: bytes });
        }
        Ok(())
    }

    /// Whether a message may be kept in the place of another one.
    pub(super) fn check_one(
        &mut self,
        message: &Message,
        last: Option<&Message>,
        cost: fn(&Message) -> usize,
    ) -> Result<(), RetainedFull> {
        let Some(user) = self.user(message) else {
            return Ok(());
        };
        let before = self.held(&user);
        let mut after = before;
        if let Some(last) = last
            && self.user(last).as_ref() == Some(&user)
        {
            after.take(cost(last));
        }
        after.add(cost(message));
        // Who has too much, since the bound is lower now, may still replace what is there.
        if after.messages <= before.messages && after.bytes <= before.bytes {
            return Ok(());
        }
        self.check(after)
    }

    /// A message is kept.
    pub(super) fn add(&mut self, message: &Message, cost: usize) {
        if let Some(user) = self.user(message) {
            self.held.entry(user).or_default().add(cost);
        }
    }

    /// A message is not kept any more.
    pub(super) fn remove(&mut self, message: &Message, cost: usize) {
        let Some(user) = self.user(message) else {
            return;
        };
        if let Some(held) = self.held.get_mut(&user) {
            held.take(cost);
            if held.messages == 0 {
                self.held.remove(&user);
            }
        }
    }

    /// Users that have something.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }
}

impl Held {
    pub(super) fn add(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes;
    }

    pub(super) fn take(&mut self, bytes: usize) {
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}
