//! Two sorted listings side by side, read only as far as the merge has come.

use std::{cmp::Ordering, pin::Pin};

use futures_util::{Stream, StreamExt as _, future, stream};

/// Goes through two listings at once. Both must be in ascending order, each key once. Gives every key
/// of either with what each of the two has for it; ends with the first error of either.
pub(super) fn merged<K: Ord, A, B, E>(
    left: impl Stream<Item = Result<(K, A), E>>,
    right: impl Stream<Item = Result<(K, B), E>>,
) -> impl Stream<Item = Result<(K, Option<A>, Option<B>), E>> {
    let sides = (Side::new(left), Side::new(right));
    stream::try_unfold(sides, |(mut left, mut right)| async {
        // At the same time, since each may wait for a page of its store.
        future::try_join(left.fill(), right.fill()).await?;
        let order = match (&left.head, &right.head) {
            (None, None) => return Ok(None),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((left, _)), Some((right, _))) => left.cmp(right),
        };
        let from_left = left.head.take_if(|_| order.is_le());
        let from_right = right.head.take_if(|_| order.is_ge());
        let item = match (from_left, from_right) {
            (Some((key, a)), b) => Some((key, Some(a), b.map(|(_, b)| b))),
            (None, Some((key, b))) => Some((key, None, Some(b))),
            (None, None) => None,
        };
        Ok(item.map(|item| (item, (left, right))))
    })
}

/// A listing and the first of what is left of it.
struct Side<S, T> {
    rest: Pin<Box<S>>,
    head: Option<T>,
    is_at_end: bool,
}

impl<S: Stream<Item = Result<T, E>>, T, E> Side<S, T> {
    fn new(listing: S) -> Self {
        Self { rest: Box::pin(listing), head: None, is_at_end: false }
    }

    async fn fill(&mut self) -> Result<(), E> {
        if self.head.is_none() && !self.is_at_end {
            self.head = self.rest.next().await.transpose()?;
            self.is_at_end = self.head.is_none();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use futures_util::{FutureExt as _, TryStreamExt as _};
    use proptest::{collection::btree_map, prelude::*};

    use super::*;

    type Listing = BTreeMap<u8, u8>;

    fn listed(listing: &Listing) -> impl Stream<Item = Result<(u8, u8), String>> {
        stream::iter(listing.clone().into_iter().map(Ok))
    }

    proptest! {
        #[test]
        fn every_key_comes_once_with_what_each_side_has(
            left in btree_map(0..40u8, any::<u8>(), 0..30),
            right in btree_map(0..40u8, any::<u8>(), 0..30),
        ) {
            let merged = merged(listed(&left), listed(&right)).try_collect::<Vec<_>>();
            let merged = merged.now_or_never().expect("nothing to wait for").expect("no error");
            let keys: BTreeSet<_> = left.keys().chain(right.keys()).copied().collect();
            let model: Vec<_> = keys
                .into_iter()
                .map(|key| (key, left.get(&key).copied(), right.get(&key).copied()))
                .collect();
            prop_assert_eq!(merged, model);
        }

        #[test]
        fn an_error_of_either_side_ends_it_and_what_came_before_is_right(
            left in btree_map(0..40u8, any::<u8>(), 0..30),
            right in btree_map(0..40u8, any::<u8>(), 0..30),
            is_left in any::<bool>(),
        ) {
            let broken = || stream::once(future::ready(Err("broken".to_owned())));
            let (left_end, right_end) = if is_left { (1, 0) } else { (0, 1) };
            let ended = merged(
                listed(&left).chain(broken().take(left_end)),
                listed(&right).chain(broken().take(right_end)),
            );
            let items = ended.collect::<Vec<_>>().now_or_never().expect("nothing to wait for");
            let (last, before) = items.split_last().expect("at least the error");
            prop_assert!(last.is_err());
            for item in before {
                let (key, a, b) = item.as_ref().expect("before the error");
                prop_assert_eq!((*a, *b), (left.get(key).copied(), right.get(key).copied()));
            }
            // A key that only the other side has must not be concluded beyond the error.
            let whole = if is_left { &left } else { &right };
            let reached = whole.keys().all(|key| before.iter().any(|item| {
                item.as_ref().is_ok_and(|(seen, _, _)| seen == key)
            }));
            let first_beyond = before.iter().filter_map(|item| item.as_ref().ok())
                .any(|(key, _, _)| whole.last_key_value().is_none_or(|(last, _)| key > last));
            prop_assert!(reached && !first_beyond);
        }
    }
}
