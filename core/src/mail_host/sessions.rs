//! The sessions that a mail host has open: which of them a change ends, and what the replica is to
//! learn of them.

use hashbrown::HashMap;

use super::messages::{Close, Opening, Request, SessionNumber, Standing, TooManySessions};
use crate::{
    downstream::{MAX_SESSIONS, recent::Recent},
    model::{
        change::{Change, Position, Revision},
        id::DeviceId,
        verdict::{Reason, Session},
    },
    sync::Arc,
};

/// Sessions in one message, at most.
const AT_ONCE: usize = 1_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Sessions {
    open: HashMap<SessionNumber, Open>,
    by_device: HashMap<DeviceId, Vec<SessionNumber>>,
    last_number: SessionNumber,
    /// What ended passwords lately, for sessions that open after their password has ended.
    recent: Recent,
    /// Counts how often that began anew: a session of an earlier epoch may have ended unseen.
    epoch: u64,
    /// What the replica is to learn, while a stream is open. A new stream begins with all sessions.
    reports: Option<Vec<Report>>,
}

#[derive(Clone, Debug)]
enum Report {
    Opened(SessionNumber),
    Closed(SessionNumber, Revision),
    Refused(SessionNumber, Revision),
}

#[derive(Debug)]
struct Open {
    opening: Opening,
    /// It is to close. With the change that was the cause; 0 if none was, or it is not known.
    closing_for: Option<Revision>,
    /// Its mail server refuses its commands, though no change has arrived yet that is the cause.
    is_refused: bool,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            open: HashMap::new(),
            by_device: HashMap::new(),
            last_number: 0,
            recent: Recent::begin(Position::default()),
            epoch: 0,
            reports: None,
        }
    }
}

impl Sessions {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What is known here of a session whose login was answered in `epoch`: `None` if a change may
    /// have been missed.
    pub(super) fn standing(&self, session: &Session, epoch: Option<u64>) -> Option<Standing> {
        if epoch != Some(self.epoch) || !self.recent.covers(session.revision) {
            return None;
        }
        if let Some((reason, _)) = self.end_of(session) {
            return Some(Standing::Ended(reason));
        }
        // A change that does not name what it ended may have ended this one.
        let doubt = self.recent.doubt_about(&session.address.key(), session.revision);
        doubt.is_none().then_some(Standing::Valid)
    }

    fn end_of(&self, session: &Session) -> Option<(Reason, Revision)> {
        self.recent.end_of(session.password.device_id, session.password.generation, session.revision)
    }

    /// A session opens. If its password has ended meanwhile, it is to close at once.
    pub(super) fn open(&mut self, opening: Opening) -> Result<(SessionNumber, Option<Close>), TooManySessions> {
        if self.open.len() >= MAX_SESSIONS {
            return Err(TooManySessions);
        }
        self.last_number += 1;
        let number = self.last_number;
        let ended = self.end_of(&opening.session);
        self.by_device.entry(opening.session.password.device_id).or_default().push(number);
        self.open.insert(number, Open { opening, closing_for: None, is_refused: false });
        self.report(Report::Opened(number));
        Ok((number, ended.and_then(|(reason, cause)| self.close(number, reason, cause))))
    }

    /// A session has ended, for whatever reason.
    pub(super) fn closed(&mut self, number: SessionNumber) {
        let Some(Open { opening, closing_for, .. }) = self.open.remove(&number) else {
            return;
        };
        let device_id = opening.session.password.device_id;
        if let Some(numbers) = self.by_device.get_mut(&device_id) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.by_device.remove(&device_id);
            }
        }
        if let Some(reports) = &mut self.reports {
            // One that the replica has not heard of yet it need not hear of.
            let unsent = reports.iter().position(|report| matches!(report, Report::Opened(other) if *other == number));
            match unsent {
                Some(at) => {
                    reports.retain(|report| !matches!(report, Report::Refused(other, _) if *other == number));
                    reports.remove(at);
                }
                None => reports.push(Report::Closed(number, closing_for.unwrap_or_default())),
            }
        }
    }

    /// A session that was to close is still connected, and every further command in it is refused.
    pub(super) fn refused(&mut self, number: SessionNumber) {
        let Some(open) = self.open.get_mut(&number) else {
            return;
        };
        match open.closing_for {
            Some(cause) if cause.0 > 0 => self.report(Report::Refused(number, cause)),
            // Nobody waits for this before the change arrives that is the cause.
            _ => open.is_refused = true,
        }
    }

    /// The sessions that a change ends.
    pub(super) fn apply(&mut self, change: &Arc<Change>) -> Vec<Close> {
        self.recent.push(Arc::clone(change));
        let mut ended_sessions = vec![];
        for ended in &change.ended {
            let numbers = self.by_device.get(&ended.device_id).map_or(&[][..], Vec::as_slice);
            let concerned = numbers.iter().filter(|number| {
                self.open.get(*number).is_some_and(|open| {
                    let session = &open.opening.session;
                    session.password.generation <= ended.generation && session.revision < change.revision
                })
            });
            ended_sessions.extend(concerned.map(|number| (*number, ended.reason)));
        }
        ended_sessions.into_iter().filter_map(|(number, reason)| self.close(number, reason, change.revision)).collect()
    }

    /// The replica, or this host, wants a session closed. Answers what to do, once for each
    /// session.
    pub(super) fn close(&mut self, number: SessionNumber, reason: Reason, cause: Revision) -> Option<Close> {
        let open = self.open.get_mut(&number).filter(|open| open.closing_for.is_none())?;
        open.closing_for = Some(cause);
        if open.is_refused && cause.0 > 0 {
            self.report(Report::Refused(number, cause));
        }
        Some(Close { number, reason })
    }

    pub(super) fn close_all(&mut self, reason: Reason) -> Vec<Close> {
        let numbers: Vec<_> = self.open.keys().copied().collect();
        numbers.into_iter().filter_map(|number| self.close(number, reason, Revision::default())).collect()
    }

    /// Changes were missed. The replica judges the open sessions itself.
    pub(super) fn begin_at(&mut self, at: Position) {
        self.recent = Recent::begin(at);
        self.epoch += 1;
    }

    /// A stream begins, and the replica knows no session: all are reported.
    pub(super) fn begin_reports(&mut self) {
        self.reports = Some(self.open.keys().copied().map(Report::Opened).collect());
    }

    pub(super) fn end_reports(&mut self) {
        self.reports = None;
    }

    /// What the replica is to learn since this was asked last.
    pub(super) fn take_reports(&mut self) -> Vec<Request> {
        let mut requests: Vec<Request> = vec![];
        for report in self.reports.as_mut().map(std::mem::take).unwrap_or_default() {
            match report {
                Report::Opened(number) => {
                    let Some(open) = self.open.get(&number) else {
                        continue;
                    };
                    let opened = (number, open.opening.clone());
                    match requests.last_mut() {
                        Some(Request::SessionsOpened(sessions)) if sessions.len() < AT_ONCE => sessions.push(opened),
                        _ => requests.push(Request::SessionsOpened(vec![opened])),
                    }
                }
                Report::Closed(number, cause) => match requests.last_mut() {
                    Some(Request::SessionsClosed { numbers, cause: last }) if *last == cause && numbers.len() < AT_ONCE => {
                        numbers.push(number);
                    }
                    _ => requests.push(Request::SessionsClosed { numbers: vec![number], cause }),
                },
                Report::Refused(number, cause) => match requests.last_mut() {
                    Some(Request::SessionsRefused { numbers, cause: last }) if *last == cause && numbers.len() < AT_ONCE => {
                        numbers.push(number);
                    }
                    _ => requests.push(Request::SessionsRefused { numbers: vec![number], cause }),
                },
            }
        }
        requests
    }

    fn report(&mut self, report: Report) {
        if let Some(reports) = &mut self.reports {
            reports.push(report);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        address::Address,
        change::{Ended, Scope, ServiceKey},
        clock::Timestamp,
        id::MailboxId,
        protocol::Protocol,
        verdict::ProvenPassword,
    };

    fn device(number: u8) -> DeviceId {
        DeviceId::from_parts(Timestamp(0), [number; 10])
    }

    fn opening(number: u8, revision: u64) -> Opening {
        let mailbox_id = MailboxId::from_parts(Timestamp(0), [1; 10]);
        let password = ProvenPassword { mailbox_id, device_id: device(number), generation: 1 };
        let address = Address::parse("address", "alice@example.com").unwrap();
        let session = Session { password, revision: Revision(revision), address };
        Opening { session, protocol: Protocol::Imap, client_ip: None, open_time: Timestamp(0) }
    }

    fn ends(number: u8, revision: u64) -> Arc<Change> {
        let ended = vec![Ended { device_id: device(number), generation: 1, reason: Reason::DeviceDisconnected }];
        Arc::new(Change { revision: Revision(revision), nonce: 1, scope: Scope::Mailboxes(vec![]), ended })
    }

    fn following() -> Sessions {
        let mut sessions = Sessions::default();
        sessions.begin_at(Position { revision: Revision(4), nonce: 1 });
        sessions.begin_reports();
        sessions
    }

    #[test]
    fn a_change_closes_the_sessions_of_its_device_and_no_others() {
        let mut sessions = following();
        let (first, close) = sessions.open(opening(1, 4)).unwrap();
        assert_eq!(close, None);
        sessions.open(opening(2, 4)).unwrap();
        assert_eq!(sessions.apply(&ends(1, 5)), [Close { number: first, reason: Reason::DeviceDisconnected }]);
        assert_eq!(sessions.close(first, Reason::DeviceDisconnected, Revision(5)), None, "once for each session");
        sessions.closed(first);
        assert_eq!(sessions.len(), 1);
        assert_eq!(sessions.by_device.len(), 1, "nothing is left of it");
    }

    #[test]
    fn a_session_that_opens_after_its_password_has_ended_closes_at_once() {
        let mut sessions = following();
        sessions.apply(&ends(1, 5));
        let before = sessions.open(opening(1, 4)).unwrap();
        assert!(before.1.is_some());
        let after = sessions.open(opening(1, 5)).unwrap();
        assert_eq!(after.1, None, "its login was judged after the change");
    }

    #[test]
    fn what_may_have_ended_unseen_is_not_known() {
        let mut sessions = following();
        let epoch = Some(sessions.epoch());
        let session = opening(1, 4).session;
        assert_eq!(sessions.standing(&session, epoch), Some(Standing::Valid));
        assert_eq!(sessions.standing(&session, None), None, "answered by a replica that is not followed");
        assert_eq!(sessions.standing(&opening(1, 3).session, epoch), None, "from before what is remembered");
        sessions.apply(&ends(1, 5));
        assert_eq!(sessions.standing(&session, epoch), Some(Standing::Ended(Reason::DeviceDisconnected)));
        let unnamed = Change { ended: vec![], scope: Scope::Service(ServiceKey(1)), ..(*ends(1, 6)).clone() };
        sessions.apply(&Arc::new(unnamed));
        assert_eq!(sessions.standing(&opening(2, 5).session, epoch), None, "a change that does not name what it ended");
        assert_eq!(sessions.standing(&session, epoch), Some(Standing::Ended(Reason::DeviceDisconnected)));
        sessions.begin_at(Position { revision: Revision(4), nonce: 2 });
        assert_eq!(sessions.standing(&session, epoch), None, "of an earlier epoch");
    }

    #[test]
    fn the_replica_learns_of_each_session_once_in_order_with_its_cause() {
        let mut sessions = following();
        let (first, _) = sessions.open(opening(1, 4)).unwrap();
        let (second, _) = sessions.open(opening(2, 4)).unwrap();
        assert_eq!(sessions.take_reports(), [Request::SessionsOpened(vec![(first, opening(1, 4)), (second, opening(2, 4))])]);
        sessions.apply(&ends(1, 5));
        sessions.refused(first);
        sessions.refused(second);
        sessions.closed(first);
        sessions.closed(second);
        assert_eq!(
            sessions.take_reports(),
            [
                Request::SessionsRefused { numbers: vec![first], cause: Revision(5) },
                Request::SessionsClosed { numbers: vec![first], cause: Revision(5) },
                Request::SessionsClosed { numbers: vec![second], cause: Revision(0) },
            ]
        );
        let (third, _) = sessions.open(opening(3, 5)).unwrap();
        sessions.closed(third);
        assert_eq!(sessions.take_reports(), [], "it came and went unreported");
    }

    #[test]
    fn a_session_that_is_refused_before_its_change_arrives_is_reported_with_the_change() {
        let mut sessions = following();
        let (number, _) = sessions.open(opening(1, 4)).unwrap();
        sessions.take_reports();
        sessions.refused(number);
        assert_eq!(sessions.take_reports(), []);
        sessions.apply(&ends(1, 5));
        assert_eq!(sessions.take_reports(), [Request::SessionsRefused { numbers: vec![number], cause: Revision(5) }]);
    }

    #[test]
    fn a_new_stream_begins_with_all_that_is_open() {
        let mut sessions = following();
        let (number, _) = sessions.open(opening(1, 4)).unwrap();
        sessions.end_reports();
        assert_eq!(sessions.take_reports(), []);
        sessions.begin_reports();
        assert_eq!(sessions.take_reports(), [Request::SessionsOpened(vec![(number, opening(1, 4))])]);
    }
}
