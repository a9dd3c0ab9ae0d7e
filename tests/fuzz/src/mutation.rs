//! Mutations of inputs for the tests, chosen by a seed.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// Bytes that parsers treat in a way of their own.
const INTERESTING: &[u8] = b"\0\x01\x7f\x80\xff \t\r\n\"'%&+,-./0129:;=AZaz[\\]_{|}~";

/// Changes inputs, the same way for the same seed.
#[derive(Debug)]
pub struct Mutator(StdRng);

impl Mutator {
    /// Creates it for a seed.
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// Returns an input that differs in one to four places, of at most `max_len` bytes. `others` are inputs
    /// whose pieces may be put into it.
    pub fn mutate(&mut self, input: &[u8], others: &[Vec<u8>], max_len: usize) -> Vec<u8> {
        let mut input = input.to_vec();
        for _ in 0..self.0.random_range(1..=4) {
            self.change(&mut input, others);
        }
        input.truncate(max_len);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, others: &[Vec<u8>]) {
        let at = self.0.random_range(0..=input.len());
        let end = self.0.random_range(at..=input.len().min(at + 32));
        match self.0.random_range(0..8) {
            0 => drop(input.drain(at..end)),
            1 => input.insert(at, self.0.random()),
            2 => input.insert(at, *INTERESTING.choose(&mut self.0).unwrap()),
            3 => drop(input.splice(at..at, input[at..end].to_vec())),
            4 => {
                // The beginning of one, and the end of another.
                let other = others.choose(&mut self.0).map(Vec::as_slice).unwrap_or_default();
                let from = self.0.random_range(0..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            5 => {
                // A number that is next to another, or at the end of a range.
                let numbers =
                    ["0", "-1", "256", "65536", "9223372036854775808", "18446744073709551616"];
                let number = numbers.choose(&mut self.0).unwrap().bytes();
                drop(input.splice(at..end, number));
            }
            _ => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = match self.0.random_range(0..3) {
                        0 => *byte ^ (1 << self.0.random_range(0..8)),
                        1 => byte.wrapping_add(1),
                        _ => *INTERESTING.choose(&mut self.0).unwrap(),
                    };
                }
            }
        }
    }
}
