//! Qualm watches machine-learning services against the contracts their providers sign.
//!
//! The modules in reading order; a module uses what stands above it, never what stands below.

pub mod time;
pub mod report;
pub mod contract;
pub mod policy;
pub mod engine;
pub mod store;
pub mod explain;
pub mod metrics;
pub mod ingest;
pub mod catalog;
pub mod dispatch;
pub mod http;
pub mod config;
pub mod service;
pub mod cli;
