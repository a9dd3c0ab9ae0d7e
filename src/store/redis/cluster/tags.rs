//! Which partition a reader is in, and which slot of the cluster a partition is in (`docs/contract.md`,
//! "Redis"). Both are fixed for ever: another rule would not find the keys that are there.

use crc::{CRC_16_XMODEM, Crc};

use crate::domain::UserId;

/// Slots of a cluster.
pub(crate) const SLOTS: u16 = 16_384;

/// The checksum of keys (Redis Cluster specification, "Key distribution model").
const CRC: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);

/// The hash tag of a partition, and the slot of all keys that carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) tag: u32,
    pub(crate) slot: u16,
}

/// Returns the tags of so many partitions: of partition `i` of `n` the least decimal number whose slot is
/// `(2i + 1) * 16384 / 2n`. So the partitions spread evenly over the slots, and over masters that have equal
/// shares of them.
pub(crate) fn tags(count: u16) -> Vec<Tag> {
    let mut tags: Vec<_> = (0..count).map(|n| (slot_of_partition(n, count), None)).collect();
    let mut missing = tags.len();
    for tag in 0.. {
        if missing == 0 {
            break;
        }
        let slot = slot_of_text(tag.to_string().as_bytes());
        let known = tags.binary_search_by_key(&slot, |(slot, _)| *slot);
        if let Ok(n) = known
            && let Some((_, first @ None)) = tags.get_mut(n)
        {
            *first = Some(tag);
            missing -= 1;
        }
    }
    tags.into_iter().filter_map(|(slot, tag)| Some(Tag { tag: tag?, slot })).collect()
}

fn slot_of_partition(n: u16, count: u16) -> u16 {
    let slot = (2 * u32::from(n) + 1) * u32::from(SLOTS) / (2 * u32::from(count.max(1)));
    u16::try_from(slot).unwrap_or(SLOTS - 1)
}

/// Returns the slot of a key: that of its hash tag, if it has one.
pub(crate) fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = key.get(open + 1..)?;
        rest.get(..rest.iter().position(|byte| *byte == b'}')?)
    });
    slot_of_text(tag.filter(|tag| !tag.is_empty()).unwrap_or(key))
}

fn slot_of_text(text: &[u8]) -> u16 {
    CRC.checksum(text) % SLOTS
}

/// Returns the partition of a reader, of so many: by a hash that mixes all bits of the ID, since the low
/// ones of snowflakes are not uniform. It is the last step of `MurmurHash3` for 64 bits; the upper bits of
/// its result choose.
pub(crate) fn partition_of(reader: UserId, count: u16) -> usize {
    let mut hash = reader.get();
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^= hash >> 33;
    let chosen = (u128::from(hash) * u128::from(count)) >> 64;
    usize::try_from(chosen).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_the_least_numbers_in_the_middle_of_each_share_of_slots() {
        let tags_of_64 = tags(64);
        let first: Vec<_> = tags_of_64.iter().take(8).map(|tag| tag.tag).collect();
        assert_eq!(first, [40_821, 5469, 3017, 2113, 574, 18_834, 8518, 26_368]);
        for count in [1, 2, 3, 64, 100, 256, 1024] {
            let tags = tags(count);
            assert_eq!(tags.len(), usize::from(count));
            for (n, Tag { tag, slot: of_tag }) in tags.iter().enumerate() {
                assert_eq!(slot(format!("markread:{{{tag}}}:layout").as_bytes()), *of_tag);
                let middle = slot_of_partition(u16::try_from(n).unwrap(), count);
                assert_eq!(*of_tag, middle, "{n} of {count}");
            }
        }
    }

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(slot_of_text(b"123456789"), 0x31c3 % SLOTS);
        assert_eq!(slot(b"foo{bar}"), slot(b"bar"));
        assert_eq!(slot(b"foo{}{bar}"), slot_of_text(b"foo{}{bar}"));
        assert_eq!(slot(b"foo{{bar}}"), slot_of_text(b"{bar"));
        assert_eq!(slot(b"foo{bar"), slot_of_text(b"foo{bar"));
    }

    #[test]
    fn masters_have_even_shares_of_the_partitions() {
        for (masters, worst) in [(3, 1.05), (6, 1.10), (8, 1.0), (16, 1.0)] {
            let mut shares = vec![0; masters];
            for Tag { slot, .. } in tags(64) {
                shares[usize::from(slot) * masters / usize::from(SLOTS)] += 1;
            }
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            let ratio = f64::from(*most) / f64::from(*least);
            assert!(ratio <= worst + 0.001, "{masters} masters: {shares:?}");
        }
    }

    #[test]
    fn readers_spread_evenly_whatever_their_ids_look_like() {
        const READERS: u64 = 64_000;
        // Consecutive IDs; snowflakes of one second and machine; the same low bits.
        let ids: [fn(u64) -> u64; 3] =
            [|n| n + 1, |n| (1_400_000_000_000_000_000 + n) << 3, |n| (n + 1) << 22];
        for id in ids {
            let mut shares = vec![0_u32; 64];
            for n in 0..READERS {
                shares[partition_of((id(n) & (u64::MAX >> 1)).try_into().unwrap(), 64)] += 1;
            }
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            assert!(*least > 850 && *most < 1150, "{least} to {most}");
        }
    }

    #[test]
    fn the_partition_of_a_reader_never_changes() {
        let readers = [1, 2, 7, 1_234_567_890_123_456_789];
        let partitions = readers.map(|reader: u64| partition_of(reader.try_into().unwrap(), 64));
        assert_eq!(partitions, [45, 14, 29, 39]);
        assert_eq!(partition_of(UserId::MAX, 1), 0);
    }
}
