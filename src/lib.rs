//! Qualm watches machine-learning services against the contracts their providers sign.
//!
//! The modules in reading order; a module uses what stands above it, never what stands below.

pub mod catalog;
pub mod cli;
pub mod config;
pub mod contract;
pub mod dispatch;
pub mod engine;
pub mod explain;
pub mod http;
pub mod ingest;
pub mod metrics;
pub mod policy;
pub mod report;
pub mod service;
pub mod store;
pub mod time;
