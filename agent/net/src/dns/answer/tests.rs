//! The specification, line by line, and what is around it. Answers are read back from the wire and written as text.

mod fuzz;
mod outside;
mod specification;
mod world;
