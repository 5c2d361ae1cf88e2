//! What the store promises, by subject.

#[cfg(test)]
mod backends;
#[cfg(test)]
mod durability;
#[cfg(test)]
mod store;
#[cfg(test)]
mod support;
