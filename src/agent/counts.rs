//! What the agent's gauges show.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use crate::{dovecot::sasl, policy, smtp_logins::SmtpLogins, telemetry::Readings, upstream::Upstream};

/// Of all doors.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) sasl: Arc<sasl::Counts>,
    pub(super) policy: Arc<policy::Counts>,
    pub(super) smtp_logins: Option<Arc<SmtpLogins>>,
}

impl Counts {
    pub(super) fn readings(&self, upstream: Arc<Upstream>) -> impl Fn() -> Readings + Send + Sync + 'static {
        let (sasl, policy) = (Arc::clone(&self.sasl), Arc::clone(&self.policy));
        let smtp_logins = self.smtp_logins.clone();
        move || {
            vec![
                ("latchkey.agent.connected", u64::from(*upstream.connected().borrow())),
                ("latchkey.agent.lease.held", u64::from(upstream.has_lease())),
                ("latchkey.agent.revision", upstream.applied().0),
                ("latchkey.agent.cache.mailboxes", upstream.cached_mailboxes() as u64),
                ("latchkey.agent.uncounted_logins", upstream.uncounted_logins()),
                ("latchkey.agent.sessions", upstream.sessions() as u64),
                ("latchkey.agent.smtp.sessions", smtp_logins.as_ref().map_or(0, |logins| logins.len() as u64)),
                ("latchkey.agent.sasl.connections", sasl.connections.load(Relaxed)),
                ("latchkey.agent.sasl.allowed", sasl.allowed.load(Relaxed)),
                ("latchkey.agent.sasl.denied", sasl.denied.load(Relaxed)),
                ("latchkey.agent.sasl.try_later", sasl.try_later.load(Relaxed)),
                ("latchkey.agent.sasl.protocol_errors", sasl.protocol_errors.load(Relaxed)),
                ("latchkey.agent.policy.good", policy.good.load(Relaxed)),
                ("latchkey.agent.policy.ended", policy.ended.load(Relaxed)),
                ("latchkey.agent.policy.unknown", policy.unknown.load(Relaxed)),
                ("latchkey.agent.policy.no_answer", policy.no_answer.load(Relaxed)),
            ]
        }
    }
}
