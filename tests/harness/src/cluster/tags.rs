//! The partitions of readers and their hash tags, computed apart from the service (`docs/contract.md`).

use super::SLOTS;

/// The tag of each partition: the least decimal number whose slot is the middle of the partition's share.
pub fn tags(partitions: u16) -> Vec<String> {
    let slot = |partition: u32| {
        let slot = (2 * partition + 1) * u32::from(SLOTS) / (2 * u32::from(partitions));
        u16::try_from(slot).unwrap()
    };
    let tag =
        |slot| (0..u64::MAX).map(|number| number.to_string()).find(|tag| slot_of(tag) == slot);
    (0..u32::from(partitions)).map(|partition| tag(slot(partition)).unwrap()).collect()
}

/// The partition of a reader, of so many: by the last step of `MurmurHash3`, whose upper bits choose.
pub fn partition_of(reader: u64, partitions: u16) -> usize {
    let mut hash = reader;
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
    }
    hash ^= hash >> 33;
    usize::try_from((u128::from(hash) * u128::from(partitions)) >> 64).unwrap()
}

/// The slot of a key: CRC16 (XMODEM) of its hash tag, or of all of it.
pub fn slot_of(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    let hashed = tag.filter(|tag| !tag.is_empty()).unwrap_or(key);
    let crc = hashed.bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            (crc << 1) ^ if crc & 0x8000 == 0 { 0 } else { 0x1021 }
        })
    });
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        // From the specification of Redis Cluster, and by CLUSTER KEYSLOT.
        assert_eq!(slot_of("123456789"), 0x31C3);
        assert_eq!(slot_of("foo{123456789}bar"), 0x31C3);
        assert_eq!(slot_of("{}foo"), slot_of("{}foo"));
        assert_ne!(slot_of("{}foo"), slot_of("foo"));
        assert_eq!(tags(64)[..4], ["40821", "5469", "3017", "2113"]);
    }
}
