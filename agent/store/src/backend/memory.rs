//! A backend without a disk: for tests, and for what need not survive.

use futures::{FutureExt, future::BoxFuture};
use uuid::Uuid;

use super::{Backend, Range, Sink, sequencer::Sequencer};
use crate::{Entry, Error, History, Op, Options, Revision, Statistics};

/// Keeps everything in memory.
#[derive(Debug)]
pub struct Memory {
    sequencer: Sequencer,
    identity: Uuid,
}

impl Memory {
    /// Empty, with an identity of its own.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        Self {
            sequencer: Sequencer::in_memory(options),
            identity: Uuid::new_v4(),
        }
    }
}

impl Backend for Memory {
    fn identity(&self) -> Uuid {
        self.identity
    }

    fn commit(&self, operations: Vec<Op>) -> BoxFuture<'static, Result<Vec<Option<Entry>>, Error>> {
        self.sequencer.commit(operations).boxed()
    }

    fn range(&self, prefix: &str) -> Result<Range, Error> {
        Ok(self.sequencer.range(prefix))
    }

    fn watch(&self, from: Revision, sink: Box<dyn Sink>) -> Result<(), Error> {
        self.sequencer.watch(from, sink)
    }

    fn history(&self) -> History {
        self.sequencer.history()
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'static, Result<(), Error>> {
        self.sequencer.compact(revision).boxed()
    }

    fn statistics(&self) -> Statistics {
        self.sequencer.statistics()
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        self.sequencer.close().boxed()
    }
}
