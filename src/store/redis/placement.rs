//! Placements: which bucket a conversation is in, for readers of more than 64 conversations. The rule is
//! in `scripts/buckets.lua`; here are the twins of its hash functions, which give the order of pages, and of
//! the keys of its buckets, in which a mark is likely to find its cursor; and the layout's version that names
//! the rule.

use std::fmt::{self, Write};

use crate::domain::{ListOrder, UserId};

/// The prime 2^31 − 1.
const MODULUS: u64 = 2_147_483_647;

/// How conversations are placed in buckets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    /// By a hash that anyone can compute: layout version 1.
    Plain,
    /// By a keyed hash: layout version 2.
    Keyed(PlacementKey),
}

/// The secret of a keyed placement: eight limbs of 28 bits.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PlacementKey([u64; Self::LIMBS]);

impl PlacementKey {
    const LIMBS: usize = 8;
    /// Hexadecimal digits of a limb.
    const LIMB_DIGITS: usize = 7;

    /// Creates a key from a cryptographic generator that the system seeds.
    pub(crate) fn random() -> Self {
        Self(rand::random::<[u32; Self::LIMBS]>().map(|limb| u64::from(limb >> 4)))
    }

    /// Parses the text of the layout key.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let is_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !is_hex || text.len() != Self::LIMBS * Self::LIMB_DIGITS {
            return None;
        }
        let mut key = [0; Self::LIMBS];
        for (n, limb) in key.iter_mut().enumerate() {
            let digits = text.get(n * Self::LIMB_DIGITS..(n + 1) * Self::LIMB_DIGITS)?;
            *limb = u64::from_str_radix(digits, 16).ok()?;
        }
        Some(Self(key))
    }

    /// Returns the text for the layout key. It must not be logged.
    pub(crate) fn to_secret_text(&self) -> String {
        let mut text = String::with_capacity(Self::LIMBS * Self::LIMB_DIGITS);
        for limb in self.0 {
            // Writing to a String cannot fail.
            let _ = write!(text, "{limb:0digits$x}", digits = Self::LIMB_DIGITS);
        }
        text
    }
}

impl fmt::Debug for PlacementKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlacementKey")
    }
}

impl Placement {
    /// Returns the layout's version that names this placement.
    pub(crate) fn version(&self) -> &'static str {
        match self {
            Self::Plain => "1",
            Self::Keyed(_) => "2",
        }
    }

    /// Returns the order of pages that this placement gives.
    pub(crate) fn order(&self) -> ListOrder {
        match self {
            Self::Plain => ListOrder::Plain,
            Self::Keyed(_) => ListOrder::Keyed,
        }
    }

    /// Returns a conversation's place in the reader's list: the 31 bits of its hash, reversed.
    pub(crate) fn place(&self, recipient: UserId) -> u32 {
        u32::try_from(self.hash(recipient)).unwrap_or_default().reverse_bits() >> 1
    }

    /// Appends to a reader's key what names the bucket of a conversation, for a reader with `count`
    /// buckets: nothing for 0, the reader's own hash. The twin of `bucket_of` and `key_of` in buckets.lua.
    pub(crate) fn append_bucket(&self, key: &mut String, recipient: UserId, count: u64) {
        let Some(exponent) = count.checked_ilog2() else { return };
        let low = 1_u64 << exponent;
        let bucket = self.hash(recipient) % low.saturating_mul(2);
        let bucket = if bucket < count { bucket } else { bucket - low };
        let kind = match self {
            Self::Plain => "",
            Self::Keyed(_) => "k",
        };
        // Writing to a String cannot fail.
        let _ = write!(key, ":{kind}{bucket}");
    }

    fn hash(&self, recipient: UserId) -> u64 {
        match self {
            Self::Plain => plain_hash(recipient),
            Self::Keyed(key) => keyed_hash(key, recipient),
        }
    }
}

fn plain_hash(recipient: UserId) -> u64 {
    let last_15_digits = recipient.get() % 1_000_000_000_000_000;
    last_15_digits % MODULUS * 48_271 % MODULUS
}

fn keyed_hash(PlacementKey(key): &PlacementKey, recipient: UserId) -> u64 {
    let id = recipient.get();
    let (low, middle, high) =
        (id % 10_000_000, id / 10_000_000 % 1_000_000, id / 10_000_000_000_000);
    let linear = (key[0] * low + key[1] * middle + key[2] * high + key[3]) % MODULUS;
    let half = |limb: u64| limb % (1 << 26);
    let mix = |hash: u64, left: u64, right: u64| {
        ((hash / 65_536 + half(left)) * (hash % 65_536 + half(right)) + hash) % MODULUS
    };
    mix(mix(linear, key[4], key[5]), key[6], key[7])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: u64) -> UserId {
        id.try_into().unwrap()
    }

    #[test]
    fn a_key_has_one_text_and_is_never_shown() {
        let key = PlacementKey::random();
        let text = key.to_secret_text();
        assert_eq!(PlacementKey::parse(&text), Some(key.clone()));
        assert_ne!(PlacementKey::random(), key);
        assert_eq!(format!("{:?}", Placement::Keyed(key)), "Keyed(PlacementKey)");
        let upper = text.replace(|digit: char| digit.is_ascii_alphabetic(), "A");
        for other in ["", &text[1..], &format!("{text}0"), &upper, &text.replace(&text[..1], "g")] {
            let is_same = *other == *text;
            assert!(is_same || PlacementKey::parse(other).is_none(), "{other}");
        }
    }

    /// Recipients that share a bucket in the plain placement are spread as others are.
    #[test]
    fn picked_recipients_are_spread_like_others() {
        const BUCKETS: u32 = 256;
        const EACH: u64 = 100;
        let picked = |n: u64| 1 + n * MODULUS;
        let plain = Placement::Plain;
        assert!((0..1000).all(|n| plain.place(user(picked(n % 400_000))) == plain.place(user(1))));
        for _ in 0..20 {
            let keyed = Placement::Keyed(PlacementKey::random());
            let sequences: [fn(u64) -> u64; 4] = [
                |n| n + 1,
                |n| 1 + n * MODULUS,
                |n| 1_247_310_121_283_321_862 + (n << 22),
                |n| 1 + n * 10_000_000_000_000 % (1 << 62),
            ];
            for sequence in sequences {
                let mut filled = vec![0_u64; usize::try_from(BUCKETS).unwrap()];
                for n in 0..EACH * u64::from(BUCKETS) {
                    let place = keyed.place(user(sequence(n)));
                    filled[usize::try_from(place / ((1 << 31) / BUCKETS)).unwrap()] += 1;
                }
                // Ten standard deviations.
                assert!(filled.iter().all(|bucket| (1..200).contains(bucket)), "{filled:?}");
            }
        }
    }
}
