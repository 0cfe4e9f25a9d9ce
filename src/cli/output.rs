//! What a command prints: the server's message as JSON, or words for people.

use std::{
    io::{self, Write},
    sync::LazyLock,
};

use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};

use super::failure::Failure;
use crate::proto;

#[expect(clippy::expect_used, reason = "the descriptors are compiled in; every test that prints JSON reads them")]
static DESCRIPTORS: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(proto::DESCRIPTORS).expect("the descriptors compiled in"));

/// Where answers go: stdout, for people or as JSON.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    json: bool,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    pub(super) fn is_json(self) -> bool {
        self.json
    }

    /// Shows an answer: with `--json` the message itself on one line, else what `words` writes.
    pub(super) fn show<M: Message + Name>(
        self,
        message: &M,
        words: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{}", json_of(message)?)?;
        } else {
            words(&mut out)?;
        }
        Ok(out.flush()?)
    }
}

/// Writes bytes as they are: a closed pipe is no error.
pub(super) fn write_all(out: &mut dyn Write, bytes: &[u8]) -> Result<(), Failure> {
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

/// A message in proto3's JSON mapping, with the proto's own field names, and with fields that hold
/// their default, so that the shape is always the same. 64-bit numbers are strings there, as the
/// mapping wants it.
pub(super) fn json_of<M: Message + Name>(message: &M) -> Result<String, Failure> {
    let unprintable = |cause: String| Failure::refused(format!("the answer can't be shown as JSON: {cause}"));
    let name = M::full_name();
    let descriptor =
        DESCRIPTORS.get_message_by_name(&name).ok_or_else(|| unprintable(format!("{name} is not in the contract")))?;
    let message =
        DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).map_err(|e| unprintable(e.to_string()))?;
    let mut json = Vec::new();
    let options = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(false);
    message
        .serialize_with_options(&mut serde_json::Serializer::new(&mut json), &options)
        .map_err(|error| unprintable(error.to_string()))?;
    String::from_utf8(json).map_err(|error| unprintable(error.to_string()))
}
