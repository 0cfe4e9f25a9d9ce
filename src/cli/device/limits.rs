//! `latchkey device limits`.

use prost_types::FieldMask;

use super::{
    add::{moment, protocol},
    find,
};
use crate::{
    cli::{
        client::{Session, request_id},
        failure::Failure,
        render::{self, Ended},
        revocation::WaitArgs,
        table,
    },
    proto,
};

#[derive(clap::Args, Debug)]
pub(in crate::cli) struct Limits {
    /// The mailbox
    address: String,
    /// Its id, or its name
    device: String,
    /// Only this protocol; repeat it for more
    #[arg(long = "protocol", value_name = "PROTOCOL", value_parser = protocol(), ignore_case = true)]
    protocols: Vec<proto::Protocol>,
    /// Any protocol
    #[arg(long, conflicts_with = "protocols")]
    any_protocol: bool,
    /// Only from this network or address; repeat it for more
    #[arg(long = "network", value_name = "CIDR")]
    networks: Vec<String>,
    /// From any network
    #[arg(long, conflicts_with = "networks")]
    any_network: bool,
    /// Expiry time: a day (2027-01-01, from its beginning here), a moment (2027-01-01T12:00:00Z) or
    /// a span (90d)
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    expires: Option<prost_types::Timestamp>,
    /// No expiry time
    #[arg(long, conflicts_with = "expires")]
    never_expires: bool,
    #[command(flatten)]
    wait: WaitArgs,
}

impl Limits {
    /// Whether it only shows them.
    pub(in crate::cli) fn only_reads(&self) -> bool {
        self.mask().is_empty()
    }

    fn mask(&self) -> Vec<String> {
        let changes = [
            (!self.protocols.is_empty() || self.any_protocol, "allowed_protocols"),
            (!self.networks.is_empty() || self.any_network, "allowed_networks"),
            (self.expires.is_some() || self.never_expires, "expire_time"),
        ];
        changes.into_iter().filter(|(is_named, _)| *is_named).map(|(_, field)| field.to_owned()).collect()
    }

    pub(super) async fn run(self, session: &Session) -> Result<(), Failure> {
        let paths = self.mask();
        let device_id = find::device_id(session, &self.address, &self.device, paths.is_empty()).await?;
        if paths.is_empty() {
            let request = proto::GetDeviceRequest { address: self.address, device_id };
            let answer = session.devices().get_device(session.request(request)).await?.into_inner();
            let device = answer.device.clone().unwrap_or_default();
            return session.output.show(&answer, |out| table::pairs(out, &render::limits_pairs(&device)));
        }
        let request = proto::UpdateDeviceRequest {
            address: self.address,
            device_id,
            allowed_protocols: self.protocols.into_iter().map(i32::from).collect(),
            allowed_networks: self.networks,
            expire_time: self.expires,
            update_mask: Some(FieldMask { paths }),
            request_id: request_id(),
            max_wait: self.wait.max_wait(),
            ..Default::default()
        };
        let answer =
            session.devices().update_device(session.request_that_waits(request, self.wait.longest())).await?.into_inner();
        let device = answer.device.clone().unwrap_or_default();
        session.output.show(&answer, |out| {
            table::pairs(out, &render::limits_pairs(&device))?;
            render::write_revocation(out, answer.revocation.as_ref(), Ended::Concerned)
        })
    }
}
