//! Whether Redis has the replicas that `--replicas-ack` demands.

use std::collections::HashMap;

use crate::store::redis::settings::Ack;

pub(super) const TOO_FEW: &str =
    "--replicas-ack: Redis has fewer replicas online than that, marks are UNAVAILABLE";

/// Returns whether marks cannot be OK, since Redis has too few replicas. One that does not say how many it has
/// counts as one with enough.
pub(super) fn are_too_few(info: &HashMap<&str, &str>, ack: Option<Ack>) -> bool {
    let connected = info.get("connected_slaves").and_then(|text| text.parse::<u32>().ok());
    let Some(connected) = connected else { return false };
    let online = (0..connected).filter(|n| {
        let replica = info.get(format!("slave{n}").as_str());
        // It is listed while it loads the data too, and confirms nothing then.
        replica.is_none_or(|fields| fields.split(',').any(|field| field == "state=online"))
    });
    u32::try_from(online.count()).is_ok_and(|online| online < ack.map_or(0, |ack| ack.replicas))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_replicas_that_are_online_count() {
        let online = "ip=10.0.0.2,port=6379,state=online,offset=14,lag=0";
        let loading = "ip=10.0.0.3,port=6379,state=wait_bgsave,offset=0,lag=0";
        let ack = |replicas| {
            Some(Ack { replicas, fsync: true, timeout: Duration::from_millis(1), connections: 4 })
        };
        let two =
            HashMap::from([("connected_slaves", "2"), ("slave0", loading), ("slave1", online)]);
        let none = HashMap::from([("connected_slaves", "0")]);
        for (info, demanded, expected) in [
            (&two, ack(1), false),
            (&two, ack(2), true),
            (&two, ack(u32::MAX), true),
            (&none, ack(1), true),
            (&none, ack(0), false),
            (&none, None, false),
            (&HashMap::new(), ack(1), false),
        ] {
            assert_eq!(are_too_few(info, demanded), expected, "{info:?} {demanded:?}");
        }
    }
}
