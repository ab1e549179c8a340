//! What waits for a connection, and who takes it: connections take as much as the broker lets them
//! have open, and give back what it has not acknowledged when they end.
//!
//! A broker may allow few open publications for each connection (Receive Maximum), and answers each
//! only when its disk has it. So there are several connections where one is not enough: one more is
//! asked for whenever something waits and all that there are have no room.

use std::collections::VecDeque;

use parking_lot::Mutex;
use rumqttc::v5::mqttbytes::QoS;
use tokio::sync::{Notify, mpsc};

use super::Job;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// Somebody may take something, or all is over.
    changed: Notify,
    /// Asks for one more connection.
    more: mpsc::Sender<()>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// What was not acknowledged when a connection ended goes first, in its order.
    returned: VecDeque<Job>,
    jobs: VecDeque<Job>,
    /// At QoS 0: nothing says when one has arrived, so only one connection keeps their order.
    unconfirmed: VecDeque<Job>,
    /// Taken, and without a verdict.
    open: usize,
    /// Nobody publishes any more.
    closed: bool,
    /// There will be no connection any more.
    ended: bool,
}

impl Queue {
    /// Empty. More connections are asked for by `more`.
    pub(super) fn new(more: mpsc::Sender<()>) -> Self {
        Self {
            waiting: Mutex::default(),
            changed: Notify::new(),
            more,
        }
    }

    /// Puts jobs behind the others. They are dropped if there is no connection any more.
    pub(super) fn push(&self, jobs: impl IntoIterator<Item = Job>) {
        let mut waiting = self.waiting.lock();
        if waiting.ended {
            return;
        }
        let before = waiting.unconfirmed.len();
        for job in jobs {
            if job.qos() == QoS::AtMostOnce {
                waiting.unconfirmed.push_back(job);
            } else {
                waiting.jobs.push_back(job);
            }
        }
        let any_unconfirmed = waiting.unconfirmed.len() > before;
        drop(waiting);
        if any_unconfirmed {
            self.changed.notify_waiters();
        }
        self.changed.notify_one();
    }

    /// Gives as many as there are to `taker`, at most `room`: first what is to be sent again. If
    /// more wait, the next connection is told.
    pub(super) fn take(&self, room: usize, is_first: bool, mut taker: impl FnMut(Job)) {
        let mut locked = self.waiting.lock();
        let waiting = &mut *locked;
        let again = waiting.returned.len().min(room);
        let first = waiting.jobs.len().min(room - again);
        let rest = if is_first { room - again - first } else { 0 };
        let unconfirmed = waiting.unconfirmed.len().min(rest);
        waiting.returned.drain(..again).for_each(&mut taker);
        waiting.jobs.drain(..first).for_each(&mut taker);
        waiting.unconfirmed.drain(..unconfirmed).for_each(taker);
        waiting.open += again + first + unconfirmed;
        let left = waiting.returned.len() + waiting.jobs.len();
        drop(locked);
        if left > 0 {
            self.changed.notify_one();
            // If it was asked for already, that is enough.
            let _ = self.more.try_send(());
        }
    }

    /// A connection has ended: what it had taken waits again, before all others.
    pub(super) fn put_back(&self, items: impl DoubleEndedIterator<Item = Job>) {
        let mut waiting = self.waiting.lock();
        for item in items.rev() {
            waiting.returned.push_front(item);
            waiting.open -= 1;
        }
        drop(waiting);
        self.changed.notify_one();
    }

    /// So many have their verdict.
    pub(super) fn settled(&self, count: usize) {
        let mut waiting = self.waiting.lock();
        waiting.open -= count;
        if waiting.is_over() {
            self.changed.notify_waiters();
        }
    }

    /// Publications without a verdict.
    pub(super) fn len(&self) -> usize {
        let waiting = self.waiting.lock();
        waiting.returned.len() + waiting.jobs.len() + waiting.unconfirmed.len() + waiting.open
    }

    /// Nobody publishes any more.
    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.changed.notify_waiters();
    }

    /// There will be no connection any more: whoever waits for a verdict is told so.
    pub(super) fn end(&self) {
        let mut waiting = self.waiting.lock();
        waiting.ended = true;
        waiting.jobs.clear();
        waiting.unconfirmed.clear();
        waiting.returned.clear();
    }

    /// Whether nobody publishes any more and everything has its verdict.
    pub(super) fn is_over(&self) -> bool {
        self.waiting.lock().is_over()
    }

    /// Waits until there may be something to take, or all is over. May be woken for nothing.
    pub(super) async fn changed(&self, is_first: bool) {
        let changed = self.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        {
            let waiting = self.waiting.lock();
            let is_something = !waiting.jobs.is_empty() || !waiting.returned.is_empty();
            let is_mine = is_first && !waiting.unconfirmed.is_empty();
            if is_something || is_mine || waiting.is_over() {
                return;
            }
        }
        changed.await;
    }

    /// Takes one, for tests.
    #[cfg(test)]
    pub(super) async fn next(&self) -> Job {
        loop {
            let mut taken = None;
            self.take(1, true, |job| taken = Some(job));
            if let Some(job) = taken {
                return job;
            }
            self.changed(true).await;
        }
    }

    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        let waiting = self.waiting.lock();
        waiting.jobs.is_empty() && waiting.unconfirmed.is_empty()
    }
}

impl Waiting {
    fn is_over(&self) -> bool {
        let is_empty =
            self.jobs.is_empty() && self.unconfirmed.is_empty() && self.returned.is_empty();
        self.closed && self.open == 0 && is_empty
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use rumqttc::v5::mqttbytes::v5::Publish;
    use tokio::sync::oneshot;

    use super::*;
    use crate::publisher::Answer;

    fn job(topic: &str) -> Job {
        job_of(topic, QoS::AtLeastOnce)
    }

    fn job_of(topic: &str, qos: QoS) -> Job {
        let answer = Answer::One(oneshot::channel().0);
        Job::new(Publish::new(topic, qos, "x", None), answer)
    }

    fn take(queue: &Queue, room: usize, is_first: bool) -> Vec<Job> {
        let mut taken = Vec::new();
        queue.take(room, is_first, |job| taken.push(job));
        taken
    }

    fn topics(taken: &[Job]) -> Vec<&str> {
        taken.iter().map(Job::topic).collect()
    }

    #[tokio::test]
    async fn what_comes_back_goes_first_and_more_connections_are_asked_for() {
        let (more, mut asked) = mpsc::channel(1);
        let queue = Queue::new(more);
        queue.push(["a", "b", "c", "d"].map(job));
        let taken = take(&queue, 2, false);
        assert_eq!(topics(&taken), ["a", "b"]);
        assert!(asked.try_recv().is_ok(), "there is no room for two");
        queue.put_back(taken.into_iter());
        assert_eq!(queue.len(), 4);
        let taken = take(&queue, 3, false);
        assert_eq!(topics(&taken), ["a", "b", "c"]);
        assert!(asked.try_recv().is_ok());
        assert_eq!(topics(&take(&queue, 9, false)), ["d"]);
        assert!(asked.try_recv().is_err());
    }

    #[tokio::test]
    async fn what_nobody_confirms_goes_by_one_connection() {
        let queue = Queue::new(mpsc::channel(1).0);
        queue.push([job_of("u", QoS::AtMostOnce), job("a")]);
        assert_eq!(topics(&take(&queue, 9, false)), ["a"]);
        // Once for nothing: it was there when it was said.
        let _ = queue.changed(false).now_or_never();
        assert!(queue.changed(false).now_or_never().is_none());
        assert!(queue.changed(true).now_or_never().is_some());
        assert_eq!(topics(&take(&queue, 9, true)), ["u"]);
    }

    #[tokio::test]
    async fn who_waits_when_there_is_no_connection_any_more_is_told() {
        let queue = Queue::new(mpsc::channel(1).0);
        for late in [false, true] {
            let (answer, verdict) = oneshot::channel();
            let publish = Publish::new("a", QoS::AtLeastOnce, "x", None);
            let job = Job::new(publish, Answer::One(answer));
            if late {
                queue.push([job]);
            } else {
                queue.push([job]);
                queue.end();
            }
            assert!(verdict.await.is_err());
        }
    }

    #[tokio::test]
    async fn it_is_over_when_nobody_publishes_and_all_is_settled() {
        let queue = Queue::new(mpsc::channel(1).0);
        queue.push([job("a"), job("b")]);
        assert_eq!(take(&queue, 9, true).len(), 2);
        queue.close();
        let _ = queue.changed(false).now_or_never();
        assert!(queue.changed(false).now_or_never().is_none());
        queue.settled(1);
        assert!(!queue.is_over());
        queue.settled(1);
        assert!(queue.is_over() && queue.changed(false).now_or_never().is_some());
    }
}
