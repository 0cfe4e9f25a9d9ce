//! Lists: page after page, as one table or a JSON line a page.

use clap::Args;
use prost::{Message, Name};

use super::{client::Session, failure::Failure, table::Table};
use crate::{exit::Exit, proto};

/// The most that the contract gives in one page.
const LARGEST_PAGE: u32 = 1_000;

#[derive(Args, Debug, Clone, Copy)]
pub(super) struct ListArgs {
    /// Show at most N (default: all)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) limit: Option<u32>,
}

/// Which page to ask for.
#[derive(Debug)]
pub(super) struct PageRequest {
    pub(super) size: i32,
    pub(super) token: String,
}

/// A list's answer, as a table.
pub(super) trait Page: Message + Name {
    const HEADS: &'static [&'static str];
    /// What to say of an empty list.
    const NONE: &'static str;

    fn rows(&self) -> Vec<Vec<String>>;
    fn next_page_token(&self) -> &str;
}

impl Session {
    /// Shows what `ask` answers, up to `limit` entries.
    pub(super) async fn list<P: Page>(
        &self,
        limit: Option<u32>,
        mut ask: impl AsyncFnMut(PageRequest) -> Result<P, Failure>,
    ) -> Result<Exit, Failure> {
        let mut table = Table::new(P::HEADS);
        let mut left = limit.unwrap_or(u32::MAX);
        let mut token = String::new();
        let mut is_empty = true;
        loop {
            let size = left.min(LARGEST_PAGE);
            let page = ask(PageRequest { size: size.cast_signed(), token: token.clone() }).await?;
            let mut rows = page.rows();
            // A server may give less than was asked for, never more; a table is cut all the same.
            rows.truncate(size as usize);
            left -= rows.len() as u32;
            is_empty &= rows.is_empty();
            self.output.show(&page, |out| if rows.is_empty() { Ok(()) } else { table.write(out, rows) })?;
            let next = page.next_page_token();
            if next.is_empty() || next == token || left == 0 {
                break;
            }
            next.clone_into(&mut token);
        }
        if is_empty && !self.output.is_json() {
            eprintln!("{}", P::NONE);
        }
        Ok(Exit::Done)
    }
}

macro_rules! page {
    ($response:ident, $field:ident, $none:literal, [$($head:literal),*], $row:expr) => {
        impl Page for proto::$response {
            const HEADS: &'static [&'static str] = &[$($head),*];
            const NONE: &'static str = $none;

            fn rows(&self) -> Vec<Vec<String>> {
                self.$field.iter().map(|entry| Vec::from($row(entry))).collect()
            }

            fn next_page_token(&self) -> &str {
                &self.next_page_token
            }
        }
    };
}

use super::render;

page!(ListDevicesResponse, devices, "No devices.", ["NAME", "KIND", "ID", "USER", "LAST USED", "LIMITS"], render::device_row);
page!(ListEventsResponse, events, "No events.", ["TIME", "EVENT", "ABOUT", "BY", "FROM", "DETAIL"], render::event_row);
page!(ListOrganizationsResponse, organizations, "No organizations.", ["ID", "NAME", "CREATED"], |it: &proto::Organization| [
    it.organization_id.clone(),
    it.display_name.clone(),
    render::time(it.create_time.as_ref()),
]);
page!(ListMembersResponse, members, "No members.", ["USER", "ROLE", "STATE"], |it: &proto::Member| [
    it.user_id.clone(),
    render::name_of(it.role().as_str_name()),
    render::suspended(it.suspended),
]);
page!(
    ListMailServicesResponse,
    mail_services,
    "No mail services.",
    ["ID", "NAME", "GENERIC LOGIN", "CREATED"],
    |it: &proto::MailService| [
        it.mail_service_id.clone(),
        it.display_name.clone(),
        render::on_off(it.generic_login_enabled),
        render::time(it.create_time.as_ref()),
    ]
);
page!(ListRightsResponse, rights, "Nobody but by their role.", ["USER"], |it: &proto::Right| [it.user_id.clone()]);
page!(
    ListMailboxesResponse,
    mailboxes,
    "No mailboxes.",
    ["ADDRESS", "STATE", "GENERIC LOGIN", "CREATED"],
    |it: &proto::Mailbox| [
        it.address.clone(),
        render::suspended(it.suspended),
        render::on_off(it.generic_login_enabled),
        render::time(it.create_time.as_ref()),
    ]
);
