//! Webhooks: their names, and the IDs of what is delivered to them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{EntryId, UserId};

/// Longest name of a webhook, in characters.
const NAME_MAX_CHARS: usize = 64;

/// Name of a webhook: a part of keys in Redis, and the label of metrics. Its clones share it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WebhookName(Arc<str>);

impl WebhookName {
    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for WebhookName {
    type Err = InvalidWebhookName;

    fn from_str(text: &str) -> Result<Self, InvalidWebhookName> {
        let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let is_name =
            !text.is_empty() && text.len() <= NAME_MAX_CHARS && text.bytes().all(is_of_name);
        if is_name { Ok(Self(text.into())) } else { Err(InvalidWebhookName) }
    }
}

impl fmt::Display for WebhookName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for WebhookName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text is not a [`WebhookName`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 64 of the characters A-Z a-z 0-9 . _ -")]
pub struct InvalidWebhookName;

/// ID of what is delivered: the same at every attempt (header `webhook-id`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeliveryId {
    /// Number of the stream's partition; 0 on one Redis.
    pub partition: usize,
    /// The stream entry.
    pub entry: EntryId,
    /// The user whom the event is for.
    pub for_user: UserId,
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, entry, for_user } = self;
        write!(f, "{partition}-{entry}-{for_user}")
    }
}

/// The text is not a [`DeliveryId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a webhook-id: <partition>-<entry ID>-<for_user_id>, as in 0-1518127183443-0-42")]
pub struct InvalidDeliveryId;

impl FromStr for DeliveryId {
    type Err = InvalidDeliveryId;

    fn from_str(text: &str) -> Result<Self, InvalidDeliveryId> {
        let (partition, rest) = text.split_once('-').ok_or(InvalidDeliveryId)?;
        let (entry, for_user) = rest.rsplit_once('-').ok_or(InvalidDeliveryId)?;
        let is_decimal = partition == "0"
            || !partition.starts_with('0') && partition.bytes().all(|byte| byte.is_ascii_digit());
        Ok(Self {
            partition: partition.parse().ok().filter(|_| is_decimal).ok_or(InvalidDeliveryId)?,
            entry: entry.parse().map_err(|_| InvalidDeliveryId)?,
            for_user: for_user.parse().map_err(|_| InvalidDeliveryId)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_fits_into_a_key_and_a_label() {
        for name in ["a", "A.b_c-9", &"x".repeat(64)] {
            let parsed: WebhookName = name.parse().unwrap();
            assert_eq!((parsed.as_str(), parsed.to_string().as_str()), (name, name));
            assert_eq!(format!("{parsed:?}"), name);
        }
        for text in ["", " a", "a:b", "a{b}", "a\n", "é", &"x".repeat(65)] {
            assert_eq!(text.parse::<WebhookName>(), Err(InvalidWebhookName), "{text}");
        }
    }

    #[test]
    fn a_delivery_id_is_partition_entry_and_user() {
        for text in ["0-1518127183443-0-42", "63-5-18446744073709551615-9223372036854775807"] {
            assert_eq!(text.parse::<DeliveryId>().unwrap().to_string(), text);
        }
        for text in
            ["", "0-5-1", "0-5-1-0", "00-5-1-7", "-5-1-7", "+0-5-1-7", "0-5-1-7-", "0-5-x-7"]
        {
            assert_eq!(text.parse::<DeliveryId>(), Err(InvalidDeliveryId), "{text}");
        }
    }
}
