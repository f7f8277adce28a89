//! Values that are equal at very many sites, kept once for all of them.

use std::{
    borrow::Borrow,
    collections::HashMap,
    hash::Hash,
    sync::{LazyLock, Mutex, PoisonError},
};

/// Most values of a kind. They are never forgotten, so what others decide must not fill the memory.
const MOST: usize = 1_024;

/// The values of a kind.
pub struct Shared<K, V>(LazyLock<Mutex<HashMap<K, V>>>);

impl<K: Eq + Hash, V: Clone> Shared<K, V> {
    /// None yet.
    pub const fn new() -> Self {
        Self(LazyLock::new(Mutex::default))
    }

    /// The value for `key`, made when it is asked for the first time; none when there are too many.
    pub fn get<Q>(&self, key: &Q, make: impl FnOnce() -> (K, V)) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(key) {
            return Some(known.clone());
        }
        (all.len() < MOST).then(|| {
            let (key, value) = make();
            all.insert(key, value.clone());
            value
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn equal_values_are_one_and_there_are_not_too_many() {
        let shared = Shared::<usize, Arc<usize>>::new();
        let get = |number: usize| shared.get(&number, || (number, Arc::new(number)));
        let first: Vec<_> = (0..MOST).map(|number| get(number).expect("has room")).collect();
        assert_eq!(get(MOST), None);
        for (number, value) in first.iter().enumerate() {
            assert!(Arc::ptr_eq(value, &get(number).expect("is known")));
        }
    }
}
