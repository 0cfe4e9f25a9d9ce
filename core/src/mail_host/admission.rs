//! What a login at a mail host is answered, and what its session opens with.

use std::fmt;

use crate::model::{
    change::Revision,
    record::MailboxRecord,
    verdict::{Reason, Session},
};

/// An allowed login: what a session opens with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Admission {
    pub session: Session,
    /// In which this host learns of the session's end. `None`: the replica that it follows has to
    /// judge it first, because another one has answered the login.
    pub epoch: Option<u64>,
}

/// An answer to a login.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    pub reason: Reason,
    /// With [`Reason::Ok`].
    pub admission: Option<Admission>,
    /// Whether memory answered it.
    pub is_from_cache: bool,
}

/// What a replica answered.
#[derive(Clone, Debug)]
pub struct Reply {
    pub reason: Reason,
    /// With [`Reason::Ok`].
    pub session: Option<Session>,
    pub revision: Revision,
    /// With [`Reason::Ok`]: the mailbox, of which this one device is known.
    pub record: Option<MailboxRecord>,
}

impl Admission {
    /// A form that mail servers carry from the login to the session: ASCII without spaces. `host`
    /// names this process, in which alone the epoch means anything.
    pub fn encode(&self, host: uuid::Uuid) -> String {
        let epoch = self.epoch.map_or_else(String::new, |epoch| format!("{epoch:x}"));
        format!("{}.{epoch}.{}", host.simple(), Hex(&self.session.encode()))
    }

    /// `None`: no text of ours.
    pub fn decode(text: &str, host: uuid::Uuid) -> Option<Self> {
        let (of, rest) = text.split_once('.')?;
        let (epoch, session) = rest.split_once('.')?;
        let bytes: Option<Vec<u8>> = if session.len() % 2 == 0 && session.is_ascii() {
            (0..session.len() / 2).map(|at| u8::from_str_radix(&session[2 * at..2 * at + 2], 16).ok()).collect()
        } else {
            None
        };
        let session = Session::decode("session", &bytes?).ok()?;
        let is_own = uuid::Uuid::try_parse(of).ok()? == host;
        let epoch = if epoch.is_empty() { None } else { Some(u64::from_str_radix(epoch, 16).ok()?) };
        Some(Self { session, epoch: epoch.filter(|_| is_own) })
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        address::Address,
        clock::Timestamp,
        id::{DeviceId, MailboxId},
        verdict::ProvenPassword,
    };

    #[test]
    fn an_admission_is_carried_as_text_and_its_epoch_means_nothing_to_another_process() {
        let password = ProvenPassword {
            mailbox_id: MailboxId::from_parts(Timestamp(0), [1; 10]),
            device_id: DeviceId::from_parts(Timestamp(0), [2; 10]),
            generation: 7,
        };
        let address = Address::parse("address", "alice@example.com").unwrap();
        let session = Session { password, revision: Revision(300), address };
        let [host, other] = [1, 2].map(uuid::Uuid::from_u128);
        for epoch in [None, Some(0), Some(300)] {
            let admission = Admission { session: session.clone(), epoch };
            let text = admission.encode(host);
            assert_eq!(Admission::decode(&text, host), Some(admission.clone()));
            assert_eq!(Admission::decode(&text, other), Some(Admission { epoch: None, ..admission }));
            assert!(text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'.'), "{text}");
        }
        for wrong in ["", ".", "..", "x.0.00", "00000000000000000000000000000001.0.4c3", "1.0.ä"] {
            assert_eq!(Admission::decode(wrong, host), None, "{wrong}");
        }
    }
}
