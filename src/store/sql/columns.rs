//! Values to and from the model's types.

use std::net::IpAddr;

use uuid::Uuid;

use super::{Row, Value};
use crate::store::{Result, StoreError};
use latchkey_core::model::{
    change::Revision,
    clock::Timestamp,
    device::{KeyId, Tag},
    id::{DeviceId, EventId, MailboxId, NodeId},
};

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<bool> for Value {
    fn from(switch: bool) -> Self {
        Self::Bool(switch)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<Uuid> for Value {
    fn from(id: Uuid) -> Self {
        Self::Bytes(id.as_bytes().to_vec())
    }
}

macro_rules! by_uuid {
    ($($id:ident),*) => {
        $(impl From<$id> for Value {
            fn from(id: $id) -> Self {
                id.0.into()
            }
        })*
    };
}
by_uuid!(DeviceId, MailboxId, EventId, NodeId);

impl From<Timestamp> for Value {
    fn from(time: Timestamp) -> Self {
        Self::Int(time.0)
    }
}

impl From<Revision> for Value {
    fn from(revision: Revision) -> Self {
        Self::Int(i64::try_from(revision.0).unwrap_or(i64::MAX))
    }
}

impl<T: Into<Self>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl From<Tag> for Value {
    fn from(tag: Tag) -> Self {
        match tag {
            Tag::Proof(proof) => Self::Bytes(proof.to_vec()),
            Tag::Index { salt, value } => Self::Bytes(vec![salt, value]),
            Tag::Unknown => Self::Null,
        }
    }
}

impl From<KeyId> for Value {
    fn from(key: KeyId) -> Self {
        Self::Int(key.0.into())
    }
}

/// A limit or a count.
pub(in crate::store) fn size(size: usize) -> Value {
    Value::Int(i64::try_from(size).unwrap_or(i64::MAX))
}

/// Reads a row from left to right. Whatever is not as the schema says is [`StoreError::Corrupt`].
pub(in crate::store) struct Columns(std::vec::IntoIter<Value>);

impl Columns {
    pub(in crate::store) fn of(row: Row) -> Self {
        Self(row.into_iter())
    }

    pub(in crate::store) fn optional_int(&mut self) -> Result<Option<i64>> {
        match self.0.next() {
            Some(Value::Int(number)) => Ok(Some(number)),
            Some(Value::Null) => Ok(None),
            _ => Err(corrupt("a number")),
        }
    }

    pub(in crate::store) fn int(&mut self) -> Result<i64> {
        self.optional_int()?.ok_or_else(|| corrupt("a number"))
    }

    pub(in crate::store) fn unsigned<T: TryFrom<i64>>(&mut self) -> Result<T> {
        T::try_from(self.int()?).map_err(|_| corrupt("a number within bounds"))
    }

    pub(in crate::store) fn optional_bool(&mut self) -> Result<Option<bool>> {
        match self.0.next() {
            Some(Value::Bool(switch)) => Ok(Some(switch)),
            Some(Value::Int(number)) => Ok(Some(number != 0)),
            Some(Value::Null) => Ok(None),
            _ => Err(corrupt("a switch")),
        }
    }

    pub(in crate::store) fn bool(&mut self) -> Result<bool> {
        self.optional_bool()?.ok_or_else(|| corrupt("a switch"))
    }

    pub(in crate::store) fn optional_text(&mut self) -> Result<Option<String>> {
        match self.0.next() {
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(Value::Null) => Ok(None),
            _ => Err(corrupt("a text")),
        }
    }

    pub(in crate::store) fn text(&mut self) -> Result<String> {
        self.optional_text()?.ok_or_else(|| corrupt("a text"))
    }

    pub(in crate::store) fn optional_bytes(&mut self) -> Result<Option<Vec<u8>>> {
        match self.0.next() {
            Some(Value::Bytes(bytes)) => Ok(Some(bytes)),
            Some(Value::Null) => Ok(None),
            _ => Err(corrupt("bytes")),
        }
    }

    pub(in crate::store) fn bytes(&mut self) -> Result<Vec<u8>> {
        self.optional_bytes()?.ok_or_else(|| corrupt("bytes"))
    }

    pub(in crate::store) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.bytes()?.try_into().map_err(|_| corrupt("so many bytes"))
    }

    pub(in crate::store) fn optional_uuid(&mut self) -> Result<Option<Uuid>> {
        let bytes = self.optional_bytes()?.filter(|bytes| !bytes.is_empty());
        bytes.map(|bytes| Uuid::from_slice(&bytes).map_err(|_| corrupt("an id"))).transpose()
    }

    pub(in crate::store) fn uuid(&mut self) -> Result<Uuid> {
        self.optional_uuid()?.ok_or_else(|| corrupt("an id"))
    }

    pub(in crate::store) fn time(&mut self) -> Result<Timestamp> {
        Ok(Timestamp(self.int()?))
    }

    pub(in crate::store) fn revision(&mut self) -> Result<Revision> {
        Ok(Revision(self.unsigned()?))
    }

    pub(in crate::store) fn tag(&mut self) -> Result<Tag> {
        let Some(tag) = self.optional_bytes()? else {
            return Ok(Tag::Unknown);
        };
        match tag[..] {
            [salt, value] => Ok(Tag::Index { salt, value }),
            _ => Ok(Tag::Proof(tag.try_into().map_err(|_| corrupt("a tag"))?)),
        }
    }

    pub(in crate::store) fn key(&mut self) -> Result<KeyId> {
        Ok(KeyId(self.unsigned()?))
    }

    /// An address that is empty when not known.
    pub(in crate::store) fn ip(&mut self) -> Result<Option<IpAddr>> {
        match self.text()?.as_str() {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| corrupt("an IP address")),
        }
    }

    /// A number that stands for something: read with its `from_number`.
    pub(in crate::store) fn known<T>(&mut self, from_number: impl Fn(i64) -> Option<T>) -> Result<T> {
        from_number(self.int()?).ok_or_else(|| corrupt("a known number"))
    }
}

pub(in crate::store) fn corrupt(expected: &str) -> StoreError {
    StoreError::Corrupt(format!("{expected} was expected in a column"))
}

/// Empty when not known.
pub(in crate::store) fn ip(ip: Option<IpAddr>) -> Value {
    Value::Text(ip.map_or_else(String::new, |ip| ip.to_string()))
}
