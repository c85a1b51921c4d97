//! What is known of a name, and when it is asked for again. Pure: answers, times and chance are handed in.
//!
//! The addresses of the last good answer are kept until a good answer has others: whatever fails, is empty or is late takes nothing
//! away, as a name server that fails says nothing of endpoints.

use std::{net::IpAddr, sync::Arc, time::Duration};

/// Of one name. What an answer has beyond it is left out, and the same of each answer.
const MAX_ADDRESSES: usize = 64;
/// However short and however long an answer says that it is good for. A TTL of 0 asks for no cache (RFC 1035 §3.2.1), which would be a
/// lookup for each request here; what is kept for days can't be moved in a hurry.
const TTL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(5));
/// After lookups in vain, longer each time.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What came of a lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    /// And how long that is good for.
    Addresses(Vec<IpAddr>, Duration),
    /// There is no such name, or it has no address.
    Nothing,
    /// Nobody could say.
    Failed,
}

/// What a lookup has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    /// There are other addresses than before.
    pub(super) changed: bool,
    /// It is asked again after this.
    pub(super) again_in: Duration,
}

/// One name.
#[derive(Debug, Clone, Default)]
pub(super) struct Answers {
    /// Sorted. Empty until the first good answer.
    addresses: Arc<[IpAddr]>,
    /// Lookups since the last good answer.
    in_vain: u32,
}

impl Answers {
    /// `chance` is from 0 to 1.
    pub(super) fn take(&mut self, told: Told, chance: f64) -> Step {
        let (found, ttl) = match told {
            Told::Addresses(found, ttl) => (usable(found), ttl.clamp(TTL.0, TTL.1)),
            Told::Nothing | Told::Failed => (Vec::new(), Duration::ZERO),
        };
        if found.is_empty() {
            let pause = PAUSES.0.saturating_mul(1 << self.in_vain.min(8)).min(PAUSES.1);
            self.in_vain = self.in_vain.saturating_add(1);
            return Step { changed: false, again_in: pause.mul_f64(0.75 + chance.clamp(0.0, 1.0) / 4.0) };
        }
        self.in_vain = 0;
        let changed = *found != *self.addresses;
        if changed {
            self.addresses = found.into();
        }
        Step { changed, again_in: ttl }
    }

    pub(super) fn addresses(&self) -> &Arc<[IpAddr]> {
        &self.addresses
    }

    /// Whether what there is was not confirmed when it should have been.
    pub(super) fn is_stale(&self) -> bool {
        self.in_vain > 0
    }
}

/// In an order of their own, as name servers turn theirs with each answer. No endpoint has what names no host: a connection to `0.0.0.0`
/// would be one to this machine.
fn usable(mut found: Vec<IpAddr>) -> Vec<IpAddr> {
    let is_host = |it: &IpAddr| match it.to_canonical() {
        IpAddr::V4(it) => !(it.is_unspecified() || it.is_multicast() || it.is_broadcast()),
        IpAddr::V6(it) => !(it.is_unspecified() || it.is_multicast()),
    };
    found.retain(is_host);
    found.sort_unstable();
    found.dedup();
    found.truncate(MAX_ADDRESSES);
    found
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    fn told(lasts: &[u8], secs: u64) -> Told {
        Told::Addresses(lasts.iter().copied().map(address).collect(), Duration::from_secs(secs))
    }

    fn step(changed: bool, secs: u64) -> Step {
        Step { changed, again_in: Duration::from_secs(secs) }
    }

    #[test]
    fn an_answer_is_good_for_as_long_as_it_says_within_bounds() {
        let mut answers = Answers::default();
        for (lasts, ttl, expected) in [
            (&[2, 1][..], 30, step(true, 30)),
            (&[1, 2], 0, step(false, 1)),
            (&[1, 2, 2, 1], 86_400, step(false, 300)),
            (&[3], 60, step(true, 60)),
        ] {
            assert_eq!(answers.take(told(lasts, ttl), 0.5), expected);
        }
        assert_eq!(**answers.addresses(), [address(3)]);
    }

    #[test]
    fn what_fails_or_is_empty_takes_nothing_away_and_is_asked_again_later_each_time() {
        let mut answers = Answers::default();
        answers.take(told(&[1], 30), 0.0);
        let nowhere = ["0.0.0.0", "255.255.255.255", "224.0.0.1", "::", "ff02::1", "::ffff:0.0.0.0"];
        let nowhere = nowhere.map(|it| it.parse().unwrap()).to_vec();
        let in_vain =
            [Told::Failed, Told::Nothing, Told::Addresses(Vec::new(), TTL.1), Told::Addresses(nowhere, TTL.1)];
        for (told, secs) in in_vain.into_iter().cycle().zip([1, 2, 4, 8, 16, 30, 30, 30, 30, 30, 30, 30]) {
            assert_eq!(answers.take(told, 1.0), step(false, secs));
            assert!(answers.is_stale() && **answers.addresses() == [address(1)]);
        }
        assert_eq!(answers.take(Told::Failed, 0.0), Step { changed: false, again_in: Duration::from_millis(22_500) });
        assert_eq!(answers.take(told(&[1], 5), 1.0), step(false, 5));
        assert!(!answers.is_stale());
        assert_eq!(answers.take(Told::Failed, 1.0), step(false, 1), "it is counted anew");
    }

    proptest! {
        #[test]
        fn there_are_never_none_again_nor_too_many_and_nobody_is_asked_all_the_time(
            lookups in vec((vec(any::<u32>(), 0..100), 0_u64..1_000_000, 0.0..=1.0), 1..40),
        ) {
            let mut answers = Answers::default();
            for (addresses, ttl, chance) in lookups {
                let before = Arc::clone(answers.addresses());
                let found = addresses.into_iter().map(|it| Ipv4Addr::from(it).into()).collect();
                let step = answers.take(Told::Addresses(found, Duration::from_secs(ttl)), chance);
                let now = answers.addresses();
                prop_assert!(before.is_empty() || !now.is_empty());
                prop_assert!(now.len() <= MAX_ADDRESSES && now.is_sorted());
                prop_assert_eq!(step.changed, before != *now);
                prop_assert!(step.again_in >= PAUSES.0.mul_f64(0.75) && step.again_in <= TTL.1);
            }
        }
    }
}
