//! What is left to chance: random numbers, the order of maps, and who goes on first when several wait. In a
//! simulation the seed decides it (`docs/development.md`, "Simulation").

#[cfg(not(test))]
pub(crate) use std::hash::RandomState;

#[cfg(not(test))]
pub(crate) use rand::{random, random_range, rng};
#[cfg(not(test))]
pub(crate) use tokio::sync::watch;

#[cfg(test)]
pub(crate) use crate::simulation::{RandomState, random, random_range, rng, watch};
