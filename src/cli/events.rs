//! `latchkey events`: the audit trail.

use jiff::{Span, Timestamp, civil::Date, tz::TimeZone};

use super::{
    client::{ClientArgs, Session},
    device::device_id,
    failure::Failure,
};
use crate::{
    clock::SystemClock,
    exit::Exit,
    proto::{self, list_events_request::Scope},
};
use latchkey_core::model::clock::Clock;

/// Show the audit trail of a mailbox, a mail service or an organization, newest first.
///
/// It shows who changed what, when and from where. For a mailbox it also shows logins, counted by
/// device, protocol, client address, outcome and hour. Times are in UTC.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  latchkey events alice@example.com
  latchkey events alice@example.com --device \"Alice's phone\" --limit 10
  latchkey events --service example-mail --since 7d
  latchkey events --organization example --since 2026-11-01 --until 2026-12-01")]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) options: Options,
    #[command(flatten)]
    pub(super) client: ClientArgs,
}

#[derive(clap::Args, Debug)]
pub(super) struct Options {
    #[command(flatten)]
    of: Of,
    /// Only events of this device: its id, or, with ADDRESS, its name
    #[arg(long)]
    device: Option<String>,
    /// Only from then on: a day (2026-11-01, from its beginning here), a moment
    /// (2026-11-01T12:00:00Z) or a time ago (7d)
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    since: Option<prost_types::Timestamp>,
    /// Only before then, in the same forms
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    until: Option<prost_types::Timestamp>,
    /// Show at most N
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// Whose events.
#[derive(clap::Args, Debug)]
#[group(required = true, multiple = false)]
struct Of {
    /// Of this mailbox
    address: Option<String>,
    /// Of the mailbox that has or had this id, also if it is deleted
    #[arg(long, value_name = "ID")]
    mailbox_id: Option<String>,
    /// Of this mail service and all its mailboxes, without logins
    #[arg(long, value_name = "ID")]
    service: Option<String>,
    /// Of this organization, its members and its mail services, without logins
    #[arg(long, value_name = "ID")]
    organization: Option<String>,
}

impl Of {
    fn scope(self) -> Option<Scope> {
        let Self { address, mailbox_id, service, organization } = self;
        let mailbox = address.map(Scope::Address).or(mailbox_id.map(Scope::MailboxId));
        mailbox.or(service.map(Scope::MailServiceId)).or(organization.map(Scope::OrganizationId))
    }
}

impl Options {
    pub(super) async fn run(self, session: &Session) -> Result<Exit, Failure> {
        let device_id = match (&self.of.address, self.device) {
            (Some(address), Some(device)) => device_id(session, address, &device, true).await?,
            (None, Some(device)) => device,
            (_, None) => String::new(),
        };
        let scope = self.of.scope();
        session
            .list(Some(self.limit), async |page| {
                let request = proto::ListEventsRequest {
                    scope: scope.clone(),
                    start_time: self.since,
                    end_time: self.until,
                    page_size: page.size,
                    page_token: page.token,
                    device_id: device_id.clone(),
                };
                Ok(session.devices().list_events(session.request(request)).await?.into_inner())
            })
            .await
    }
}

fn moment(text: &str) -> Result<prost_types::Timestamp, String> {
    let now = Timestamp::from_microsecond(SystemClock.wall().0).map_err(|error| error.to_string())?;
    let moment = moment_before(text, now, TimeZone::system())
        .ok_or("must be a day like 2026-11-01, a moment like 2026-11-01T12:00:00Z, or a span like 7d")?;
    Ok(prost_types::Timestamp { seconds: moment.as_second(), nanos: moment.subsec_nanosecond() })
}

fn moment_before(text: &str, now: Timestamp, zone: TimeZone) -> Option<Timestamp> {
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Some(moment);
    }
    if let Ok(day) = text.parse::<Date>() {
        return day.to_zoned(zone).ok().map(|start| start.timestamp());
    }
    now.to_zoned(zone).checked_sub(text.parse::<Span>().ok()?).ok().map(|moment| moment.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_begins_on_a_day_at_a_moment_or_so_long_ago() {
        let now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        for (text, expected) in [
            ("2026-11-01", Some("2026-10-31T23:00:00Z")),
            ("2026-11-01T12:00:00Z", Some("2026-11-01T12:00:00Z")),
            ("7d", Some("2026-11-16T12:00:00Z")),
            ("yesterday", None),
        ] {
            let expected: Option<Timestamp> = expected.map(|text| text.parse().unwrap());
            assert_eq!(moment_before(text, now, zone.clone()), expected, "{text}");
        }
    }
}
