//! The sessions that this mail host has open, and which of them a change closes.

use std::{net::IpAddr, sync::Arc};

use hashbrown::HashMap;
use tokio::sync::mpsc;

use crate::proto::watch_request::sessions_opened::Opened;
use latchkey_core::{
    downstream::recent::Recent,
    model::{
        change::{Change, Position, Revision},
        clock::Timestamp,
        protocol::Protocol,
        verdict::{Reason, Session},
    },
};

/// This process's number for a session.
pub type SessionNumber = u64;

/// Closes a session, for a reason: told once for each. Must not wait.
pub type CloseSession = Arc<dyn Fn(SessionNumber, Reason) + Send + Sync>;

/// What the replica is to learn.
#[derive(Clone, Debug)]
pub(super) enum Report {
    Opened(Box<Opened>),
    /// With the change that was the cause; 0 if none was.
    Closed(SessionNumber, Revision),
}

pub(super) struct OpenSessions {
    open: HashMap<SessionNumber, Open>,
    next: SessionNumber,
    closer: CloseSession,
    /// For sessions that are opened after their password has ended.
    recent: Recent,
    /// To the stream that is followed, if one is: it knows all that was open when it began.
    reports: Option<mpsc::UnboundedSender<Report>>,
}

struct Open {
    session: Session,
    protocol: Protocol,
    client_ip: Option<IpAddr>,
    open_time: Timestamp,
    /// The closer was called; with the change that was the cause.
    closing_for: Option<Revision>,
}

impl OpenSessions {
    pub(super) fn new(closer: CloseSession) -> Self {
        Self { open: HashMap::new(), next: 1, closer, recent: Recent::begin(Position::default()), reports: None }
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn open(
        &mut self,
        session: Session,
        protocol: Protocol,
        client_ip: Option<IpAddr>,
        open_time: Timestamp,
    ) -> SessionNumber {
        let number = self.next;
        self.next += 1;
        let password = session.password;
        let ended = self.recent.end_of(password.device_id, password.generation, session.revision);
        let open = Open { session, protocol, client_ip, open_time, closing_for: None };
        self.report(Report::Opened(Box::new(open.to_report(number))));
        self.open.insert(number, open);
        if let Some((reason, cause)) = ended {
            self.tell_to_close(number, reason, cause);
        }
        number
    }

    pub(super) fn close(&mut self, number: SessionNumber) {
        if let Some(open) = self.open.remove(&number) {
            self.report(Report::Closed(number, open.closing_for.unwrap_or_default()));
        }
    }

    /// Closes the sessions whose password a change has ended.
    pub(super) fn apply(&mut self, change: &Arc<Change>) {
        self.recent.push(Arc::clone(change));
        for ended in &change.ended {
            let concerned = self.open.iter().filter(|(_, open)| {
                let password = open.session.password;
                password.device_id == ended.device_id
                    && password.generation <= ended.generation
                    && open.session.revision < change.revision
            });
            for number in concerned.map(|(number, _)| *number).collect::<Vec<_>>() {
                self.tell_to_close(number, ended.reason, change.revision);
            }
        }
    }

    /// Changes were missed: what the replica knows of these sessions it says itself.
    pub(super) fn begin_at(&mut self, at: Position) {
        self.recent = Recent::begin(at);
    }

    /// `cause`: the change; 0 if none was.
    pub(super) fn tell_to_close(&mut self, number: SessionNumber, reason: Reason, cause: Revision) {
        if let Some(open) = self.open.get_mut(&number)
            && open.closing_for.is_none()
        {
            open.closing_for = Some(cause);
            (self.closer)(number, reason);
        }
    }

    pub(super) fn tell_all_to_close(&mut self, reason: Reason) {
        for number in self.open.keys().copied().collect::<Vec<_>>() {
            self.tell_to_close(number, reason, Revision::default());
        }
    }

    /// For a stream that knows none: all of them, and what happens from here on.
    pub(super) fn begin_reports(&mut self) -> (Vec<Opened>, mpsc::UnboundedReceiver<Report>) {
        let (reports, to_report) = mpsc::unbounded_channel();
        self.reports = Some(reports);
        (self.open.iter().map(|(number, open)| open.to_report(*number)).collect(), to_report)
    }

    pub(super) fn end_reports(&mut self) {
        self.reports = None;
    }

    fn report(&self, report: Report) {
        if let Some(reports) = &self.reports {
            // Its stream may be ending: the next one begins with all of them.
            let _ = reports.send(report);
        }
    }
}

impl Open {
    fn to_report(&self, number: SessionNumber) -> Opened {
        Opened {
            number,
            session: self.session.encode(),
            protocol: self.protocol as i32,
            client_ip: self.client_ip.map_or_else(String::new, |ip| ip.to_string()),
            open_time: Some(prost_types::Timestamp {
                seconds: self.open_time.0.div_euclid(1_000_000),
                nanos: i32::try_from(self.open_time.0.rem_euclid(1_000_000) * 1_000).unwrap_or(0),
            }),
        }
    }
}
