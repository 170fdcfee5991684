//! Qualm watches machine-learning services against the contracts their providers sign.
//!
//! The modules in reading order; a module uses what stands above it, never what stands below.

// What goes in: times, reports, contracts (of other tools too), scripts.
pub mod time;
pub mod report;
pub mod contract;
pub mod policy;
pub mod import;
// The core: reports and time in, verdicts, violations and actions out.
pub mod engine;
// What is remembered, and what can be asked of it.
pub mod store;
pub mod explain;
// The service: counting, reading reports, contracts in force, sending events, the API.
pub mod metrics;
pub mod ingest;
pub mod catalog;
pub mod dispatch;
pub mod http;
// Putting it together.
pub mod load;
pub mod config;
pub mod service;
pub mod cli;
