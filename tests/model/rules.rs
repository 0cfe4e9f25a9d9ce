//! The rules that can be taken out of the model, one at a time.

/// A rule of the protocol (docs/design.md, "A revocation"). Each stands where the model wires the
/// crate's parts together, and each is there because without it a login is allowed that must not
/// be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Rule {
    /// A record that was read before a change to its mailbox was applied does not get into the
    /// cache after it.
    Fence,
    /// A record that was read before the cache was emptied does not get in afterwards.
    Floor,
    /// Whether a record may be judged by is asked after argon2 has run, not before.
    AuthorityLast,
    /// A sync's lease counts from before the store was asked.
    LeaseFromBeforeTheSync,
    /// A sync's lease begins when everything up to its head is applied.
    ApplyBeforeLease,
    /// A change is acknowledged when it is applied.
    ApplyBeforeAcknowledgement,
    /// The rows of all processes are read after the commit.
    RowsAfterCommit,
    /// A row is waited for also if it looks expired.
    NoRowLooksExpired,
    /// A row is there before the head is read that a lease comes from.
    RowBeforeLease,
    /// A row is removed only if it did not move since it was judged.
    CompareAndSwap,
    /// A row is removed only after it was seen not to move for as long as a lease lasts.
    SeenForAWholeLease,
    /// A watcher's lease is what its replica's has left.
    LeaseHandedOn,
    /// A replica acknowledges what its watchers have acknowledged, or can't use any more.
    WaitForWatchers,
    /// A replica waits for a watcher's lease a little longer than it lasts, since the watcher's
    /// clock may be the slower one.
    WatcherDrift,
    /// What a watcher asked before a change, it does not cache after it.
    WatcherFence,
    /// A watcher asks about logins the replica that it watches: any other may know less than it has
    /// been told.
    AskWhomItWatches,
    /// A watcher whose stream has ended is waited for until its lease has run out.
    DepartedIsWaitedFor,
    /// And so is one that has come back, as for what it was told before.
    ResumedIsWaitedFor,
    /// Who begins empty acknowledges nothing before its watchers have begun empty too.
    StartEmptyHoldsAllBack,
    /// A watcher that is to begin anew is cut off if what it still acknowledges on its stream could
    /// be taken for that: it may be of a history that is gone.
    NewHistoryNewStream,
    /// A change ends a record whatever revision that was read at: it may be one of a history that
    /// is gone.
    AnyRevisionEnds,
    /// A call that finds the device gone waits as the first one does.
    RepeatedCallWaits,
    /// A revocation waits for the lease's length and one part in a hundred.
    Drift,
    /// And for a quarter of a second more.
    Margin,
    /// A log in which the last row applied has another nonce is another history.
    Nonce,
    /// An acknowledgement counts in the history that it is of.
    AcknowledgedHistory,
    /// A revocation waits for the row of its own process as for any other: what that remembers of
    /// how far it has applied may be of a history that is gone.
    OwnHistory,
    /// The rows that are applied follow the last one applied: they are read together with it.
    AppliedHistory,
    /// A login without a lease waits for a sync that begins after it.
    SyncBegunAfterTheLogin,
}
