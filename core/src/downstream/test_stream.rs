//! A watcher's stream for tests, here and in `tests/interleavings`: a queue of the standard
//! library.

use std::sync::mpsc;

use super::{CutOff, Hello, Message, Outbox, ProtocolError, QUEUE, Watchers, Welcome};
use crate::model::change::Position;

/// A watcher's stream: its queue, and why it was cut off.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) number: u64,
    pub(crate) position: Position,
    pub(crate) starts_empty: bool,
    pub(crate) messages: mpsc::Receiver<Message>,
    pub(crate) cut_off: mpsc::Receiver<CutOff>,
}

struct Queue(mpsc::SyncSender<Message>, mpsc::Sender<CutOff>);

impl Outbox for Queue {
    fn send(&mut self, message: Message) -> bool {
        self.0.try_send(message).is_ok()
    }

    fn cut_off(self: Box<Self>, why: CutOff) {
        let _ = self.1.send(why);
    }
}

impl Watch {
    pub(crate) fn open(watchers: &Watchers, hello: Hello) -> Result<Self, ProtocolError> {
        let (queue, messages) = mpsc::sync_channel(QUEUE);
        let (cut, cut_off) = mpsc::channel();
        let Welcome { number, position, starts_empty } = watchers.hello(hello, Box::new(Queue(queue, cut)))?;
        Ok(Self { number, position, starts_empty, messages, cut_off })
    }
}
