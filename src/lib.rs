//! Qualm watches machine-learning services against the contracts their providers sign.
//!
//! The modules in reading order; a module uses what stands above it, never what stands below.

pub mod time;
pub mod report;
pub mod contract;
pub mod policy;
pub mod engine;
pub mod cli;
