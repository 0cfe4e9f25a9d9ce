//! Histories that are wrong, by hand: the checker finds each, by its rule; and one that is right,
//! of which it says nothing.

use std::time::Duration;

use latchkey::proto::Reason;
use latchkey_core::model::clock::BootTime;

use crate::{
    checker::{Rule, check},
    history::{Answer, By, Failure, Fault, Grant, History, How, Issued, Login, Outcome, Password, Revocation, Session},
};

const PHONE: Password = Password { device: 1, generation: 1 };
const LAPTOP: Password = Password { device: 2, generation: 1 };

fn s(seconds: f64) -> BootTime {
    BootTime(1_000_000_000_000) + Duration::from_secs_f64(seconds)
}

fn allow(password: Password) -> Answer {
    Answer::Allow { device: Some(password.device) }
}

fn login(began: f64, ended: f64, password: Option<Password>, by: By, answer: Answer) -> Login {
    Login { began: s(began), ended: s(ended), mailbox: 7, password, by, answer }
}

fn revocation(began: f64, ended: f64, outcome: Outcome) -> Revocation {
    Revocation { began: s(began), ended: s(ended), how: How::Disconnect, password: PHONE, replica: 0, outcome }
}

/// The phone is disconnected from 10 to 12, while replica 1 has no database; a watcher is reachable
/// all the time.
fn right() -> History {
    let issued = [PHONE, LAPTOP].map(|password| Issued { password, mailbox: 7, began: s(0.0), good_from: s(1.0) });
    let outage = Some((s(9.0), s(13.0)));
    let outage = Fault { what: "hold", replica: Some(1), began: s(9.0), ended: s(13.0), outage };
    let grant = |renewal: u32| {
        let asked = s(f64::from(renewal) * 0.4);
        Grant { watcher: 3, stream: 1, asked, heard: asked + Duration::from_millis(2) }
    };
    History {
        issued: issued.to_vec(),
        logins: vec![
            login(2.0, 2.1, Some(PHONE), By::Replica(0), allow(PHONE)),
            login(2.0, 2.1, None, By::Replica(0), Answer::Deny(Reason::WrongPassword)),
            login(9.5, 9.6, Some(LAPTOP), By::Replica(1), allow(LAPTOP)),
            login(9.9, 15.0, Some(PHONE), By::Replica(1), allow(PHONE)),
            login(11.0, 11.1, Some(PHONE), By::Cache(3), allow(PHONE)),
            login(11.0, 11.1, Some(PHONE), By::Replica(0), Answer::Deny(Reason::DeviceDisconnected)),
            login(12.5, 12.6, Some(LAPTOP), By::Replica(1), Answer::None("unavailable".to_owned())),
            login(12.1, 12.2, Some(PHONE), By::Replica(0), Answer::Deny(Reason::DeviceDisconnected)),
        ],
        revocations: vec![
            revocation(10.0, 10.5, Outcome::Pending { effective_by: s(14.0) }),
            Revocation { how: How::Await, ..revocation(10.6, 12.0, Outcome::Effective) },
        ],
        sessions: vec![Session { watcher: 3, password: PHONE, opened: s(3.0), closed: Some(s(12.4)) }],
        grants: (0..50).map(grant).collect(),
        faults: vec![outage],
        failures: vec![],
        ended: s(20.0),
    }
}

/// What the checker finds once this has been done to the right history.
fn found(spoil: impl FnOnce(&mut History)) -> Vec<Rule> {
    let mut history = right();
    spoil(&mut history);
    check(&history).into_iter().map(|violation| violation.rule).collect()
}

fn found_with(login: Login) -> Vec<Rule> {
    found(|history| history.logins.push(login))
}

#[test]
fn nothing_is_found_in_a_right_history() {
    assert_eq!(found(|_| ()), []);
}

#[test]
fn a_login_allowed_after_effective_is_found() {
    for by in [By::Replica(1), By::Cache(3)] {
        assert_eq!(found_with(login(12.001, 12.1, Some(PHONE), by, allow(PHONE))), [Rule::AllowedAfterEffective]);
    }
}

#[test]
fn a_login_allowed_after_the_time_that_pending_promised_is_found() {
    let late = login(14.1, 14.2, Some(PHONE), By::Replica(0), allow(PHONE));
    assert_eq!(
        found(|history| {
            history.revocations.pop();
            history.sessions.clear();
            history.logins.push(late);
        }),
        [Rule::AllowedAfterEffective]
    );
}

#[test]
fn a_login_allowed_without_a_password_is_found() {
    let wrong = [
        login(2.0, 2.1, None, By::Replica(0), allow(PHONE)),
        login(2.0, 2.1, Some(PHONE), By::Replica(0), allow(LAPTOP)),
        login(2.0, 2.1, Some(Password { generation: 2, ..PHONE }), By::Replica(0), allow(PHONE)),
        Login { mailbox: 8, ..login(2.0, 2.1, Some(PHONE), By::Replica(0), allow(PHONE)) },
    ];
    for wrong in wrong {
        assert_eq!(found_with(wrong), [Rule::AllowedWithoutPassword]);
    }
}

#[test]
fn a_session_that_stays_open_is_found_only_where_it_could_be_closed() {
    assert_eq!(found(|history| history.sessions[0].closed = Some(s(15.0))), [Rule::SessionStaysOpen]);
    assert_eq!(found(|history| history.sessions[0].closed = None), [Rule::SessionStaysOpen]);
    // No grant between 11 and 17, and one that came late: the watcher was cut off.
    let is_cut_off = |grant: &Grant| grant.asked > s(11.0) && grant.asked < s(17.0);
    let cut_off = |history: &mut History| {
        history.sessions[0].closed = Some(s(17.5));
        let mut late = history.grants[30].clone();
        late.heard = s(16.9);
        history.grants.retain(|grant| !is_cut_off(grant));
        history.grants.push(late);
    };
    assert_eq!(found(cut_off), []);
}

#[test]
fn a_good_password_that_is_denied_is_found_whatever_else_goes_on() {
    for began in [2.0, 9.5, 12.5] {
        let denied = login(began, began + 0.1, Some(LAPTOP), By::Replica(1), Answer::Deny(Reason::WrongPassword));
        assert_eq!(found_with(denied), [Rule::GoodPasswordDenied]);
    }
    // It ends only later.
    let denied = login(9.0, 9.9, Some(PHONE), By::Replica(1), Answer::Deny(Reason::DeviceDisconnected));
    assert_eq!(found_with(denied), [Rule::GoodPasswordDenied]);
}

#[test]
fn a_denial_for_a_wrong_reason_is_found() {
    for (password, reason) in
        [(Some(PHONE), Reason::WrongPassword), (Some(PHONE), Reason::PasswordChanged), (None, Reason::UnknownAddress)]
    {
        let denied = login(13.0, 13.1, password, By::Replica(0), Answer::Deny(reason));
        assert_eq!(found_with(denied), [Rule::WrongReason]);
    }
}

#[test]
fn a_call_without_an_answer_is_found_while_nothing_is_wrong() {
    let error = || Answer::None("unavailable".to_owned());
    assert_eq!(found_with(login(15.5, 15.6, Some(LAPTOP), By::Replica(1), error())), [Rule::NoAnswerWhenHealthy]);
    assert_eq!(found_with(login(14.5, 15.5, Some(LAPTOP), By::Replica(1), error())), [], "it has only just healed");
    let unsettled = revocation(16.0, 16.1, Outcome::None("unavailable".to_owned()));
    assert_eq!(found(|history| history.revocations.push(unsettled)), [Rule::NoAnswerWhenHealthy]);
}

#[test]
fn a_call_that_fails_is_found_while_nothing_is_wrong_and_a_refusal_always() {
    let failure = |began: f64, is_refusal| Failure { began: s(began), ended: s(began + 0.1), what: String::new(), is_refusal };
    assert_eq!(found(|history| history.failures.push(failure(16.0, false))), [Rule::NoAnswerWhenHealthy]);
    assert_eq!(found(|history| history.failures.push(failure(10.0, false))), []);
    assert_eq!(found(|history| history.failures.push(failure(10.0, true))), [Rule::Refused]);
}

#[test]
fn a_history_that_never_hit_a_cache_proves_nothing() {
    assert_eq!(found(|history| history.logins.retain(|it| !matches!(it.by, By::Cache(_)))), [Rule::CacheNeverHit]);
    assert_eq!(found(|history| history.faults[0].outage = None), [Rule::CacheNeverHit]);
}
