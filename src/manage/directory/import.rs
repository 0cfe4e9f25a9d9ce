//! Import: many mailboxes with their generic passwords' hashes, in batches of one transaction each.

use std::collections::{HashMap, HashSet};

use tracing::info;

use super::Directory;
use crate::random::NewId as _;
use crate::{
    manage::{Refusal, Thing, authorize, transact},
    passwords::imported,
    random,
    store::{NewMailbox, Origin},
};
use latchkey_core::model::{
    Invalid,
    address::Address,
    caller::Requester,
    id::{DeviceId, MailServiceId, MailboxId},
};

/// Lines in one batch.
pub const MAX_IMPORT_LINES: usize = 10_000;

/// A line as it came.
#[derive(Clone, Debug)]
pub struct ImportLine {
    pub number: u64,
    pub address: String,
    pub mail_service_id: String,
    pub generic_password_hash: String,
}

/// What became of a batch.
#[derive(Clone, Debug, Default)]
pub struct Imported {
    pub last_line: u64,
    pub created: usize,
    pub existing: usize,
    pub refused: Vec<RefusedLine>,
}

#[derive(Clone, Debug)]
pub struct RefusedLine {
    pub number: u64,
    pub why: Invalid,
}

impl Directory {
    /// Puts a batch in, but for the lines that it refuses. Mailboxes that are there are left as
    /// they are. Not waited for until it holds everywhere: it revokes nothing.
    pub async fn import(&self, who: &Requester, lines: &[ImportLine], validate_only: bool) -> Result<Imported, Refusal> {
        if lines.is_empty() || lines.len() > MAX_IMPORT_LINES {
            return Err(Invalid::new("lines", "must be 1 to 10,000").into());
        }
        let services = self.known_services(who, lines).await?;
        let now = self.clock.wall();
        let mut imported = Imported { last_line: lines.iter().map(|line| line.number).max().unwrap_or(0), ..Imported::default() };
        let mut mailboxes = Vec::with_capacity(lines.len());
        let mut seen = HashSet::with_capacity(lines.len());
        for line in lines {
            match parse(line, &services) {
                Ok((address, service, hash)) => {
                    if !seen.insert(address.key()) {
                        imported.existing += 1;
                        continue;
                    }
                    mailboxes.push(NewMailbox {
                        mailbox_id: MailboxId::new(now),
                        key: address.key(),
                        address,
                        mail_service_id: service.clone(),
                        generic: hash.map(|hash| (DeviceId::new(now), hash)),
                    });
                }
                Err(why) => imported.refused.push(RefusedLine { number: line.number, why }),
            }
        }
        if validate_only {
            imported.created = mailboxes.len();
            return Ok(imported);
        }
        let origin = Origin {
            actor: who.actor.as_ref().map_or_else(String::new, ToString::to_string),
            caller: who.caller.clone(),
            peer: who.peer.clone(),
            time: now,
            nonce: random::nonce(),
        };
        let made = transact::retried(|| async { Ok(self.store.import(&mailboxes, &origin).await?) }).await?;
        imported.created = made.iter().filter(|made| **made).count();
        imported.existing += made.len() - imported.created;
        self.feed.hint();
        let Imported { created, existing, ref refused, .. } = imported;
        info!(kind = "MailboxesImported", caller = who.caller, created, existing, refused = refused.len(), "changed");
        Ok(imported)
    }

    /// The mail services that the lines name, and whether there is such a one that the requester
    /// may manage.
    async fn known_services<'a>(
        &self,
        who: &Requester,
        lines: &'a [ImportLine],
    ) -> Result<HashMap<&'a str, Option<MailServiceId>>, Refusal> {
        transact::read(&*self.store, "import.check", |mut tx| async move {
            let mut services: HashMap<&str, Option<MailServiceId>> = HashMap::new();
            for line in lines {
                if services.contains_key(line.mail_service_id.as_str()) {
                    continue;
                }
                let known = match MailServiceId::parse("mail_service_id", &line.mail_service_id) {
                    Err(_) => None,
                    Ok(id) => match authorize::mail_service(&mut tx, who, &id).await {
                        Ok(service) => Some(service.mail_service_id),
                        Err(Refusal::NotFound(Thing::MailService) | Refusal::ActorNotPermitted) => None,
                        Err(refusal) => return Err(refusal),
                    },
                };
                services.insert(&line.mail_service_id, known);
            }
            Ok(services)
        })
        .await
    }
}

type Parsed<'a> = (Address, &'a MailServiceId, Option<latchkey_core::model::device::PasswordHash>);

fn parse<'a>(line: &ImportLine, services: &'a HashMap<&str, Option<MailServiceId>>) -> Result<Parsed<'a>, Invalid> {
    let address = Address::parse("address", &line.address)?;
    let Some(Some(service)) = services.get(line.mail_service_id.as_str()) else {
        return Err(Invalid::because("UNKNOWN_MAIL_SERVICE", "mail_service_id", "must name a mail service that exists"));
    };
    let hash = match line.generic_password_hash.as_str() {
        "" => None,
        hash => Some(imported::parse("generic_password_hash", hash)?),
    };
    Ok((address, service, hash))
}
