//! The rows of all processes, as they were last read: many waits share one reading.

use std::sync::Arc;

use crate::store::{Store, StoreError};
use latchkey_core::{
    confirmation::Node,
    model::clock::{BootTime, Clock},
};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Rows(tokio::sync::Mutex<Option<Reading>>);

#[derive(Debug)]
struct Reading {
    asked: BootTime,
    /// `None`: the database did not answer.
    rows: Option<Arc<[Node]>>,
}

impl Rows {
    /// All rows, read after this call began.
    pub(super) async fn read(&self, store: &dyn Store, clock: &dyn Clock) -> Result<Arc<[Node]>, StoreError> {
        let wanted = clock.boot();
        let mut last = self.0.lock().await;
        if let Some(Reading { asked, rows }) = &*last
            && *asked > wanted
        {
            // A failure is shared, too: who asks a silent database one after the other waits for
            // ever.
            return rows.clone().ok_or_else(|| StoreError::Unavailable("the rows could not be read".to_owned()));
        }
        let asked = clock.boot();
        let rows = store.nodes().await.map(Arc::<[Node]>::from);
        *last = Some(Reading { asked, rows: rows.as_ref().ok().cloned() });
        rows
    }
}
