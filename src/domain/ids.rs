//! IDs of users and messages: integers from 1 to 2^63 − 1, in text canonical decimal.
//!
//! An ID is compared as an integer and never becomes a float. The Redis script, whose numbers are
//! floats, compares the text by length, then digit by digit.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

/// The greatest ID, 2^63 − 1.
pub const MAX_ID: u64 = i64::MAX.cast_unsigned();

/// Why a value is not an ID. The texts follow a field's name: "`recipient_id` is missing: …".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidId {
    /// Absent, or zero in protobuf, which cannot tell the two apart.
    #[error("is missing: it must be an integer from 1 to 9223372036854775807")]
    Missing,
    /// Zero, in text.
    #[error("is zero: it must be an integer from 1 to 9223372036854775807")]
    Zero,
    /// Above 2^63 − 1.
    #[error("is too large: it must be an integer from 1 to 9223372036854775807")]
    TooLarge,
    /// Not canonical decimal: a sign, a leading zero, a space, a letter, an exponent.
    #[error(
        "is not a number: it must be an integer from 1 to 9223372036854775807 in decimal digits"
    )]
    NotDecimal,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(NonZeroU64);

        impl $name {
            /// The least ID.
            pub const MIN: Self = Self(NonZeroU64::MIN);

            /// The greatest ID.
            pub const MAX: Self = match NonZeroU64::new(MAX_ID) {
                Some(id) => Self(id),
                None => Self::MIN,
            };

            /// The integer, from 1 to 2^63 − 1.
            pub const fn get(self) -> u64 {
                self.0.get()
            }
        }

        impl TryFrom<u64> for $name {
            type Error = InvalidId;

            fn try_from(id: u64) -> Result<Self, InvalidId> {
                let id = NonZeroU64::new(id).ok_or(InvalidId::Missing)?;
                if id.get() > MAX_ID { Err(InvalidId::TooLarge) } else { Ok(Self(id)) }
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                parse_decimal(text)?.try_into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// ID of a user: the reader or the recipient.
    UserId
}

id! {
    /// ID of a direct message. Twitter's API calls it an event: `last_read_event_id`.
    MessageId
}

/// Parses canonical decimal: ASCII digits, no sign, no leading zero. Empty text means missing.
fn parse_decimal(text: &str) -> Result<u64, InvalidId> {
    if text.is_empty() {
        return Err(InvalidId::Missing);
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) || (text.len() > 1 && text.starts_with('0'))
    {
        return Err(InvalidId::NotDecimal);
    }
    if text == "0" {
        return Err(InvalidId::Zero);
    }
    // Digits alone fail only if there are too many.
    text.parse().map_err(|_| InvalidId::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_integers_from_1_to_the_greatest() {
        for id in [1, 2, 3_805_104_374, 8_754_578_330_382_663_743, MAX_ID] {
            assert_eq!(UserId::try_from(id).map(UserId::get), Ok(id));
            assert_eq!(id.to_string().parse::<MessageId>().map(MessageId::get), Ok(id));
        }
        assert_eq!(MessageId::try_from(0), Err(InvalidId::Missing));
        for id in [MAX_ID + 1, u64::MAX] {
            assert_eq!(MessageId::try_from(id), Err(InvalidId::TooLarge));
            assert_eq!(id.to_string().parse::<MessageId>(), Err(InvalidId::TooLarge));
        }
    }

    #[test]
    fn text_must_be_canonical_decimal() {
        for text in
            ["+1", "-1", " 1", "1 ", "01", "00", "1e3", "0x10", "1.0", "٣", "１", "one", "1\n"]
        {
            assert_eq!(text.parse::<UserId>(), Err(InvalidId::NotDecimal), "{text:?}");
        }
        assert_eq!("".parse::<UserId>(), Err(InvalidId::Missing));
        assert_eq!("0".parse::<UserId>(), Err(InvalidId::Zero));
        let too_long = "9".repeat(400);
        assert_eq!(too_long.parse::<UserId>(), Err(InvalidId::TooLarge));
    }

    #[test]
    fn ids_that_are_equal_as_floats_stay_apart() {
        let lower: MessageId = "8754578330382663742".parse().unwrap();
        let upper: MessageId = "8754578330382663743".parse().unwrap();
        assert!(lower < upper);
        assert_eq!(upper.to_string(), "8754578330382663743");
    }
}
