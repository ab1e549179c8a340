//! The topic that a client publishes to again.

use crate::model::Topic;

/// The topic that the client publishes to again and again, as most devices do: looked at once,
/// then only compared. It is kept from its second time on, so that a client that goes through many
/// topics costs nothing more.
#[derive(Debug, Default)]
pub(crate) struct LastTopic {
    kept: Option<Box<Topic>>,
    /// Of the topic before, see [`print_of`].
    print: u32,
}

impl LastTopic {
    /// The topic, if one is kept.
    #[inline]
    pub(crate) fn kept(&self) -> Option<&Topic> {
        self.kept.as_deref()
    }

    /// The topic of this name, if it is the one that is kept.
    pub(crate) fn get(&self, name: &str) -> Option<Topic> {
        let kept = self.kept()?;
        (kept.as_str() == name).then(|| kept.clone())
    }

    /// Whether the topic before was probably this one too.
    pub(crate) fn is_again(&mut self, name: &str) -> bool {
        let print = print_of(name);
        std::mem::replace(&mut self.print, print) == print
    }

    pub(crate) fn keep(&mut self, topic: &Topic) {
        self.kept = Some(Box::new(topic.clone()));
    }
}

/// Tells topics apart well enough to know which is worth keeping.
fn print_of(name: &str) -> u32 {
    let mut print = name.len() as u64;
    for chunk in name.as_bytes().chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        let mixed = print.rotate_left(5) ^ u64::from_le_bytes(word);
        // As in FxHash: odd, with its bits well spread.
        print = mixed.wrapping_mul(0x517c_c1b7_2722_0a95);
    }
    (print >> 32) as u32
}
