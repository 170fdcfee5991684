//! `qualm bench`: generated load for a stream, a service or a file.

use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::publish::Publisher;
use super::recording::Progress;
use super::{Format, Outcome};
use crate::load::{self, Load};
use crate::time::{Span, Timestamp};

/// Publish generated reports, at a rate or flat out, and say what was achieved
///
/// The same numbers give the same reports, event times aside: with --rate they are sent at their
/// event time, flat out they end at the present, 20,000 a second of event time.
///
/// Example: qualm bench --nats nats://127.0.0.1:4222 --applications 1000 --count 1000000
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// Publish to NATS (JetStream), each report acknowledged
    #[arg(long, conflicts_with_all = ["server", "to"])]
    nats: Option<String>,
    /// Post to a service's HTTP API
    #[arg(long, conflicts_with = "to")]
    server: Option<String>,
    /// Write to a file as NDJSON; - for standard output
    #[arg(long)]
    to: Option<PathBuf>,
    /// Write a contract of 20 objectives for each application into this folder
    #[arg(long)]
    contracts: Option<PathBuf>,
    /// Reports
    #[arg(long, default_value_t = 100_000)]
    count: u64,
    /// Reports a second; flat out without
    #[arg(long)]
    rate: Option<f64>,
    /// Applications
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    applications: u64,
    /// Stages of an application
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    stages: u64,
    /// Instances of a stage
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    instances: u64,
    /// Values of the label that half the objectives are grouped by
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..))]
    devices: u64,
    /// Bytes of a report
    #[arg(long, default_value_t = 417, value_parser = clap::value_parser!(u32).range(300..1_000_000))]
    bytes: u32,
    /// Share of the reports that tell of up to 3 s earlier
    #[arg(long, default_value_t = 0.0)]
    disorder: f64,
    /// Share of the reports that repeat the one before
    #[arg(long, default_value_t = 0.0)]
    duplicates: f64,
    /// Each report with an inference, and feedback for an earlier one
    #[arg(long)]
    predictions: bool,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Publications that await their acknowledgement at once.
const WINDOW: usize = 4_096;
/// Reports that travel in one HTTP request.
const LINES: u64 = 500;

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    if let Some(folder) = &arguments.contracts {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        for application in 0..arguments.applications {
            let file = folder.join(format!("load-{application}.yaml"));
            std::fs::write(&file, load::contract(application))
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
    }
    anyhow::ensure!(arguments.rate.is_none_or(|rate| rate > 0.0 && rate <= 1e6), "--rate is from 0 to a million");
    let step = arguments.rate.map_or(Load::default().step, |rate| Span::from_micros((1e6 / rate).round() as i64));
    let now = Timestamp::now();
    let past = if arguments.rate.is_some() { 0 } else { step.as_micros() * arguments.count as i64 };
    let load = Load {
        applications: arguments.applications,
        stages: arguments.stages,
        instances: arguments.instances,
        devices: arguments.devices,
        bytes: arguments.bytes as usize,
        start: if arguments.to.is_some() { Load::default().start } else { now - Span::from_micros(past) },
        step,
        disorder: arguments.disorder,
        duplicates: arguments.duplicates,
        predictions: arguments.predictions,
    };
    let mut pace = Pace { started: Instant::now(), rate: arguments.rate, sent: 0, progress: Progress::new() };
    match (&arguments.nats, &arguments.server, &arguments.to) {
        (Some(url), ..) => super::runtime()?.block_on(to_nats(url, &load, arguments.count, &mut pace))?,
        (_, Some(url), _) => super::runtime()?.block_on(to_http(url, &load, arguments.count, &mut pace))?,
        (.., Some(file)) => to_file(file, &load, arguments.count, &mut pace)?,
        _ => return Ok(Outcome::Fine),
    }
    pace.progress.end();
    let seconds = pace.started.elapsed().as_secs_f64();
    let rate = pace.sent as f64 / seconds;
    let mut out = std::io::stderr();
    match arguments.format {
        Format::Json => writeln!(
            out,
            "{}",
            serde_json::json!({"reports": pace.sent, "seconds": seconds, "rate": rate, "bytes": arguments.bytes})
        )?,
        Format::Text => writeln!(
            out,
            "{} reports of {} bytes in {seconds:.2} s: {rate:.0} a second, {:.1} MB a second",
            pace.sent,
            arguments.bytes,
            rate * f64::from(arguments.bytes) / 1e6
        )?,
    }
    Ok(Outcome::Fine)
}

/// How many are to be sent by now.
struct Pace {
    started: Instant,
    rate: Option<f64>,
    sent: u64,
    progress: Progress,
}

impl Pace {
    /// Waits until some of the rest are due, and says how many.
    async fn due(&mut self, rest: u64) -> u64 {
        self.progress.show(self.sent);
        let Some(rate) = self.rate else { return rest.min(LINES) };
        loop {
            let due = ((self.started.elapsed().as_secs_f64() * rate) as u64).saturating_sub(self.sent);
            if due > 0 {
                return due.min(rest).min(LINES);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn to_nats(url: &str, load: &Load, count: u64, pace: &mut Pace) -> anyhow::Result<()> {
    let mut publisher = Publisher::connect(url, WINDOW).await?;
    let mut line = String::new();
    while pace.sent < count {
        for n in pace.sent..pace.sent + pace.due(count - pace.sent).await {
            line.clear();
            let (application, stage) = load.write(n, &mut line);
            let body = line.trim_end().to_owned();
            let subject = format!("qoa.reports.default.app-{application}.stage-{stage}");
            publisher.publish(subject, body).await?;
            pace.sent += 1;
        }
    }
    publisher.finish().await
}

async fn to_http(server: &str, load: &Load, count: u64, pace: &mut Pace) -> anyhow::Result<()> {
    let client = super::http_client()?;
    let url = format!("{}/v1/reports", server.trim_end_matches('/'));
    while pace.sent < count {
        let due = pace.due(count - pace.sent).await;
        let body = load.reports(pace.sent..pace.sent + due);
        let response = client.post(&url).body(body).send().await.with_context(|| format!("no service at {server}"))?;
        let (status, answer) = (response.status(), response.text().await?);
        anyhow::ensure!(status.as_u16() == 202, "{status}: {answer}");
        pace.sent += due;
    }
    Ok(())
}

fn to_file(file: &PathBuf, load: &Load, count: u64, pace: &mut Pace) -> anyhow::Result<()> {
    let target: Box<dyn Write> = if file.as_os_str() == "-" {
        Box::new(std::io::stdout().lock())
    } else {
        Box::new(std::fs::File::create(file).with_context(|| format!("cannot write {}", file.display()))?)
    };
    let mut out = BufWriter::with_capacity(1 << 20, target);
    let mut line = String::new();
    for n in 0..count {
        line.clear();
        load.write(n, &mut line);
        out.write_all(line.as_bytes())?;
        pace.sent += 1;
        pace.progress.show(pace.sent);
    }
    Ok(out.flush()?)
}
