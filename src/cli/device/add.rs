//! `latchkey device add`.

use std::io::{self, Write};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use jiff::{Span, Timestamp, civil::Date, tz::TimeZone};

use crate::{
    cli::{
        client::{Session, request_id},
        failure::Failure,
        prompt::{self, ChosenPassword},
        terminal::printable,
    },
    clock::SystemClock,
    proto,
};
use latchkey_core::model::{clock::Clock, protocol::Protocol};

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct Add {
    /// The mailbox
    address: String,
    /// Its display name: 1 to 64 characters
    name: String,
    #[command(flatten)]
    password: ChosenPassword,
    /// The person whose device it is
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// A protocol that it may use; can be repeated (default: all)
    #[arg(long = "protocol", value_name = "PROTOCOL", value_parser = protocol(), ignore_case = true)]
    protocols: Vec<proto::Protocol>,
    /// A network or address that it may be used from; can be repeated (default: all)
    #[arg(long = "network", value_name = "CIDR")]
    networks: Vec<String>,
    /// Expiry time: a date (2027-01-01, its start in local time), a time (2027-01-01T12:00:00Z) or
    /// a span (90d)
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    expires: Option<prost_types::Timestamp>,
}

impl Add {
    pub(super) async fn run(self, session: &Session) -> Result<(), Failure> {
        let request = proto::CreateDeviceRequest {
            address: self.address,
            display_name: self.name,
            password: prompt::text(self.password.read()?)?,
            user_id: self.user.unwrap_or_default(),
            allowed_protocols: self.protocols.into_iter().map(i32::from).collect(),
            allowed_networks: self.networks,
            expire_time: self.expires,
            request_id: request_id(),
        };
        let answer = session.devices().create_device(session.request(request)).await?.into_inner();
        session.output.show(&answer, |out| {
            let device = answer.device.clone().unwrap_or_default();
            writeln!(
                out,
                "\"{}\" is a device of {} now ({}).",
                printable(&device.display_name),
                device.address,
                device.device_id
            )?;
            write_password(out, &answer.password)
        })
    }
}

/// A parser of protocols' names, in any case.
pub(in crate::cli) fn protocol() -> impl TypedValueParser<Value = proto::Protocol> {
    PossibleValuesParser::new(Protocol::ALL.map(Protocol::name))
        .try_map(|name| proto::Protocol::from_str_name(&format!("PROTOCOL_{}", name.to_uppercase())).ok_or("not a protocol"))
}

/// The one time that a generated password is seen; nothing for a chosen one.
pub(super) fn write_password(out: &mut dyn Write, password: &str) -> io::Result<()> {
    if password.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n    {}\n", console::style(printable(password)).bold())?;
    writeln!(out, "This password is shown this once and kept nowhere: type it into the mail program now.")
}

pub(super) fn moment(text: &str) -> Result<prost_types::Timestamp, String> {
    let now = Timestamp::from_microsecond(SystemClock.wall().0).map_err(|error| error.to_string())?;
    let moment = moment_after(text, now, TimeZone::system())
        .ok_or("must be a day like 2027-01-01, a moment like 2027-01-01T12:00:00Z, or a span like 90d")?;
    if moment <= now {
        return Err("must be in the future".to_owned());
    }
    Ok(prost_types::Timestamp { seconds: moment.as_second(), nanos: moment.subsec_nanosecond() })
}

fn moment_after(text: &str, now: Timestamp, zone: TimeZone) -> Option<Timestamp> {
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Some(moment);
    }
    if let Ok(day) = text.parse::<Date>() {
        return day.to_zoned(zone).ok().map(|start| start.timestamp());
    }
    now.to_zoned(zone).checked_add(text.parse::<Span>().ok()?).ok().map(|moment| moment.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_expires_on_a_day_at_a_moment_or_after_a_span() {
        let now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        let cases = [
            ("2027-01-01", Some("2026-12-31T23:00:00Z")),
            ("2027-01-01T12:00:00Z", Some("2027-01-01T12:00:00Z")),
            ("90d", Some("2027-02-21T12:00:00Z")),
            ("soon", None),
        ];
        for (text, expected) in cases {
            let expected: Option<Timestamp> = expected.map(|text| text.parse().unwrap());
            assert_eq!(moment_after(text, now, zone.clone()), expected, "{text}");
        }
        assert_eq!(moment("2020-01-01"), Err("must be in the future".to_owned()));
    }
}
