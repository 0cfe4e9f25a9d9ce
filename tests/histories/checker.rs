//! What a history must be like: docs/design.md, "A revocation", as seen from outside. A pure
//! function; `wrong_histories.rs` shows that each rule is one.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    time::Duration,
};

use latchkey::proto::Reason;
use latchkey_core::model::clock::BootTime;

use crate::history::{Answer, By, Grant, History, How, Issued, Login, Outcome, Password, at};

pub const LEASE: Duration = Duration::from_secs(2);
/// After the last fault, until the cluster counts as healthy.
pub const SETTLES: Duration = LEASE;
/// For a session to be closed on a watcher that is reachable: a replica that could not judge it
/// tries again after a second.
const SESSION_GRACE: Duration = Duration::from_millis(2_500);
/// Grants in a row that come this fast, and this often, show a stream that lives.
const GRANT_TAKES: Duration = Duration::from_millis(500);
const GRANT_GAP: Duration = Duration::from_secs(1);
/// Ended passwords of a mailbox that are remembered; older ones are wrong like any other.
const REMEMBERED: usize = 20;

/// The fault after which a replica may remember a change that the database has lost.
pub const LOSE_COMMITS: &str = "lose commits";

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Rule {
    /// A login that began after EFFECTIVE was allowed.
    AllowedAfterEffective,
    /// A login was allowed with what was no password of the mailbox's while it was under way, or as
    /// another device than its own.
    AllowedWithoutPassword,
    /// A session of an ended password stays open on a watcher that can be reached.
    SessionStaysOpen,
    GoodPasswordDenied,
    /// Denied rightly, for a reason that is not the case.
    WrongReason,
    /// A good login, or a revocation, was not answered though nothing was wrong.
    NoAnswerWhenHealthy,
    /// A watcher that does as it should was told that it does not.
    Refused,
    /// No login was allowed from a cache: the history proves nothing.
    CacheNeverHit,
}

#[derive(Clone, Debug)]
pub struct Violation {
    pub rule: Rule,
    pub told: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.told)
    }
}

/// How often what happened.
#[derive(Clone, Default, Debug)]
pub struct Counts {
    pub allowed: usize,
    pub denied: usize,
    pub unanswered: usize,
    pub allowed_from_watchers_caches: usize,
    /// By a replica whose database was out of reach all the while.
    pub allowed_in_outages: usize,
    pub effective: usize,
    pub pending: usize,
    pub unsettled: usize,
    pub slowest_effective: Duration,
    pub sessions: usize,
    pub faults: BTreeMap<&'static str, usize>,
}

pub fn count(history: &History) -> Counts {
    let mut counts = Counts { sessions: history.sessions.len(), ..Counts::default() };
    let outages: Vec<_> = history.faults.iter().filter_map(|fault| Some((fault.replica, fault.outage?))).collect();
    for login in &history.logins {
        match (&login.answer, login.by) {
            (Answer::Allow { .. }, By::Cache(_)) => {
                (counts.allowed, counts.allowed_from_watchers_caches) =
                    (counts.allowed + 1, counts.allowed_from_watchers_caches + 1)
            }
            (Answer::Allow { .. }, By::Replica(replica)) => {
                counts.allowed += 1;
                let is_cut_off = outages.iter().any(|(whose, (began, ended))| {
                    whose.is_none_or(|it| it == replica) && *began <= login.began && login.ended <= *ended
                });
                counts.allowed_in_outages += usize::from(is_cut_off);
            }
            (Answer::Allow { .. }, By::Host(_)) => counts.allowed += 1,
            (Answer::Deny(_), _) => counts.denied += 1,
            (Answer::None(_), _) => counts.unanswered += 1,
        }
    }
    for revocation in &history.revocations {
        match revocation.outcome {
            Outcome::Effective => {
                counts.effective += 1;
                counts.slowest_effective = counts.slowest_effective.max(revocation.ended - revocation.began);
            }
            Outcome::Pending { .. } => counts.pending += 1,
            Outcome::None(_) => counts.unsettled += 1,
        }
    }
    for fault in &history.faults {
        *counts.faults.entry(fault.what).or_default() += 1;
    }
    counts
}

/// One call that ends a device's password, as far as it is known what it did.
struct End {
    /// With all lower ones.
    generation: u32,
    began: BootTime,
    /// From when on no login may begin that is allowed: `None` if the call did not say.
    effective: Option<BootTime>,
    how: How,
}

struct Checker<'a> {
    history: &'a History,
    issued: HashMap<Password, &'a Issued>,
    ends: HashMap<usize, Vec<End>>,
    /// By mailbox: when calls that ended passwords began, in order.
    ends_by_mailbox: HashMap<usize, Vec<BootTime>>,
    start: BootTime,
    violations: Vec<Violation>,
}

/// All that is wrong with a history.
pub fn check(history: &History) -> Vec<Violation> {
    let issued: HashMap<_, _> = history.issued.iter().map(|issued| (issued.password, issued)).collect();
    let mut ends: HashMap<usize, Vec<End>> = HashMap::new();
    let mut ends_by_mailbox: HashMap<usize, Vec<BootTime>> = HashMap::new();
    for revocation in &history.revocations {
        let effective = match revocation.outcome {
            Outcome::Effective => Some(revocation.ended),
            Outcome::Pending { effective_by } => Some(effective_by.max(revocation.ended)),
            Outcome::None(_) => None,
        };
        let Password { device, generation } = revocation.password;
        ends.entry(device).or_default().push(End { generation, began: revocation.began, effective, how: revocation.how });
        if let Some(issued) = issued.get(&revocation.password).filter(|_| revocation.how != How::Await) {
            ends_by_mailbox.entry(issued.mailbox).or_default().push(revocation.began);
        }
    }
    let began = history.logins.iter().map(|login| login.began).chain(history.issued.iter().map(|issued| issued.began));
    let start = began.min().unwrap_or_default();
    let mut checker = Checker { history, issued, ends, ends_by_mailbox, start, violations: vec![] };
    history.logins.iter().for_each(|login| checker.login(login));
    checker.sessions();
    checker.revocations();
    checker.failures();
    checker.fast_way();
    checker.violations.sort_by_key(|violation| violation.rule);
    checker.violations
}

impl Checker<'_> {
    fn login(&mut self, login: &Login) {
        match &login.answer {
            Answer::Allow { device } => {
                if let Some(wrong) = self.is_allowed_wrongly(login, *device) {
                    self.violation(wrong.0, login, &wrong.1);
                }
            }
            // Who guesses much has to wait: that is no answer about this password.
            Answer::Deny(Reason::Throttled) => (),
            Answer::Deny(reason) => {
                if self.is_good(login) {
                    self.violation(Rule::GoodPasswordDenied, login, &format!("{reason:?}"));
                } else if !self.reasons(login).contains(reason) {
                    self.violation(Rule::WrongReason, login, &format!("{reason:?} is none of {:?}", self.reasons(login)));
                }
            }
            Answer::None(error) => {
                if self.is_good(login) && self.is_healthy(login.began, login.ended) {
                    self.violation(Rule::NoAnswerWhenHealthy, login, error);
                }
            }
        }
    }

    fn is_allowed_wrongly(&self, login: &Login, answered: Option<usize>) -> Option<(Rule, String)> {
        let Some(password) = login.password else {
            return Some((Rule::AllowedWithoutPassword, "nobody ever had it".to_owned()));
        };
        let is_issued = self.issued.get(&password).is_some_and(|it| it.mailbox == login.mailbox && it.began <= login.ended);
        if !is_issued || answered != Some(password.device) {
            return Some((Rule::AllowedWithoutPassword, format!("answered as device {answered:?}")));
        }
        let over = self.effective(password).filter(|effective| *effective < login.began)?;
        Some((Rule::AllowedAfterEffective, format!("EFFECTIVE at {}", at(over, self.start))))
    }

    /// When a password was over everywhere, at the latest.
    fn effective(&self, password: Password) -> Option<BootTime> {
        self.ends_of(password).filter_map(|end| end.effective).min()
    }

    fn ends_of(&self, password: Password) -> impl Iterator<Item = &End> {
        let ends = self.ends.get(&password.device).map(Vec::as_slice).unwrap_or_default();
        ends.iter().filter(move |end| end.generation >= password.generation)
    }

    /// Whether the password was good all the while, for certain.
    fn is_good(&self, login: &Login) -> bool {
        let Some(password) = login.password else {
            return false;
        };
        let is_certain = self.issued.get(&password).is_some_and(|issued| issued.good_from <= login.began);
        is_certain && self.ends_of(password).all(|end| end.began > login.ended)
    }

    /// For what a login may be denied.
    fn reasons(&self, login: &Login) -> Vec<Reason> {
        let Some(password) = login.password else {
            return vec![Reason::WrongPassword];
        };
        let mut reasons = vec![];
        let is_lost = self.history.faults.iter().any(|fault| fault.what == LOSE_COMMITS && fault.began <= login.ended);
        if self.issued.get(&password).is_none_or(|issued| issued.good_from > login.began) {
            // A cache may not have heard of it yet.
            reasons.push(Reason::WrongPassword);
        }
        for end in self.ends_of(password).filter(|end| end.began <= login.ended) {
            match end.how {
                How::Disconnect => reasons.push(Reason::DeviceDisconnected),
                How::Change => {
                    reasons.push(Reason::PasswordChanged);
                    if is_lost {
                        // The new password is lost with its change; the old one must not come back,
                        // so the device goes.
                        reasons.push(Reason::DeviceDisconnected);
                    }
                }
                How::Await => (),
            }
        }
        let ended =
            self.ends_by_mailbox.get(&login.mailbox).map_or(0, |ends| ends.partition_point(|began| *began <= login.ended));
        // What was lost is ended once more, which nobody here has counted.
        if ended > REMEMBERED || (is_lost && ended > 0) {
            reasons.push(Reason::WrongPassword);
        }
        reasons
    }

    fn is_healthy(&self, began: BootTime, ended: BootTime) -> bool {
        self.history.faults.iter().all(|fault| fault.began > ended || fault.ended + SETTLES < began)
    }

    fn sessions(&mut self) {
        let runs = runs(&self.history.grants);
        for session in &self.history.sessions {
            let Some(effective) = self.effective(session.password) else {
                continue;
            };
            let closed = session.closed.unwrap_or(self.history.ended);
            let over = effective.max(session.opened);
            let stays = runs.get(&session.watcher).into_iter().flatten().find_map(|(from, to)| {
                let due = over.max(*from) + SESSION_GRACE;
                (due < closed.min(*to)).then_some(due)
            });
            if let Some(due) = stays {
                let told = format!(
                    "{} on watcher {}, opened {}, EFFECTIVE {}, to be closed by {}, closed {}",
                    session.password,
                    session.watcher,
                    at(session.opened, self.start),
                    at(effective, self.start),
                    at(due, self.start),
                    session.closed.map_or("never".to_owned(), |closed| at(closed, self.start)),
                );
                self.violations.push(Violation { rule: Rule::SessionStaysOpen, told });
            }
        }
    }

    fn revocations(&mut self) {
        for revocation in &self.history.revocations {
            if let Outcome::None(error) = &revocation.outcome
                && self.is_healthy(revocation.began, revocation.ended)
            {
                let (began, ended) = (at(revocation.began, self.start), at(revocation.ended, self.start));
                let told = format!("{:?} of {}, {began} to {ended}: {error}", revocation.how, revocation.password);
                self.violations.push(Violation { rule: Rule::NoAnswerWhenHealthy, told });
            }
        }
    }

    fn failures(&mut self) {
        for failure in &self.history.failures {
            let told = format!("{} to {}: {}", at(failure.began, self.start), at(failure.ended, self.start), failure.what);
            if failure.is_refusal {
                self.violations.push(Violation { rule: Rule::Refused, told });
            } else if self.is_healthy(failure.began, failure.ended) {
                self.violations.push(Violation { rule: Rule::NoAnswerWhenHealthy, told });
            }
        }
    }

    fn fast_way(&mut self) {
        let Counts { allowed_from_watchers_caches, allowed_in_outages, .. } = count(self.history);
        if allowed_from_watchers_caches == 0 || allowed_in_outages == 0 {
            let told = format!(
                "{allowed_from_watchers_caches} logins were allowed from watchers' caches, {allowed_in_outages} by replicas cut off from the database"
            );
            self.violations.push(Violation { rule: Rule::CacheNeverHit, told });
        }
    }

    fn violation(&mut self, rule: Rule, login: &Login, what: &str) {
        let (began, ended) = (at(login.began, self.start), at(login.ended, self.start));
        let password = login.password.map_or("a wrong password".to_owned(), |password| password.to_string());
        let told = format!("{password} of mailbox {} at {:?}, {began} to {ended}: {what}", login.mailbox, login.by);
        self.violations.push(Violation { rule, told });
    }
}

/// From when to when each watcher was reachable: the times between grants of one stream that came
/// fast and often.
fn runs(grants: &[Grant]) -> HashMap<usize, Vec<(BootTime, BootTime)>> {
    let mut by_stream: BTreeMap<(usize, u64), Vec<&Grant>> = BTreeMap::new();
    for grant in grants.iter().filter(|grant| grant.heard - grant.asked <= GRANT_TAKES) {
        by_stream.entry((grant.watcher, grant.stream)).or_default().push(grant);
    }
    let mut runs: HashMap<usize, Vec<(BootTime, BootTime)>> = HashMap::new();
    for ((watcher, _), mut grants) in by_stream {
        grants.sort_by_key(|grant| grant.heard);
        for run in grants.chunk_by(|earlier, later| later.heard - earlier.heard <= GRANT_GAP) {
            if let [first, .., last] = run {
                runs.entry(watcher).or_default().push((first.heard, last.heard));
            }
        }
    }
    runs
}
