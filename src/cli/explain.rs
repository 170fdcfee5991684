//! `qualm explain`: ask a question.

use anyhow::Context;
use clap::ValueEnum;

use super::Outcome;
use crate::explain::{self, Answer, Answered, Subject, View, Why};
use crate::ingest::nats;
use crate::store::without_password;
use crate::time::Timestamp;

/// Ask a running service, or a database, about its promises
///
/// Asks the service at --server unless --nats or --database is given. Questions, and what each
/// takes as its ID:
///
///   why, which, root-cause, who, how   a violation
///   where                              an inference (or --request)
///   ensemble, cost, quality            an application
///   when, compliance                   a contract
///
/// Examples:
///   qualm explain why 0c9fa3c6-4d54-5d3c-9a52-c1a2b8d0a1f7
///   qualm explain quality smart_building --from 2025-07-18T04:15:00Z --format md
///   qualm explain how --contract smart-building --objective on-time
///   qualm explain compliance smart-building --as consumer --format html
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// The question
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(explain::QUESTIONS.map(|(name, _, answers)| {
        clap::builder::PossibleValue::new(name).help(answers)
    })))]
    question: String,
    /// What it is about: the id of a violation or inference, the name of an application or contract
    id: Option<String>,
    /// The id of a violation
    #[arg(long)]
    violation: Option<String>,
    /// The name of a contract
    #[arg(long)]
    contract: Option<String>,
    /// The name of an objective
    #[arg(long)]
    objective: Option<String>,
    /// The name of an application
    #[arg(long)]
    application: Option<String>,
    /// The tenant of the application [default: default]
    #[arg(long)]
    tenant: Option<String>,
    /// The id of an inference
    #[arg(long)]
    inference: Option<String>,
    /// The id of a request
    #[arg(long)]
    request: Option<String>,
    /// Start of the period [default: the full hour 24 h before its end; for compliance 30 days]
    #[arg(long)]
    from: Option<Timestamp>,
    /// End of the period [default: the newest event time]
    #[arg(long)]
    until: Option<Timestamp>,
    /// Whom the answer is for [default: provider]
    #[arg(long = "as", value_enum)]
    view: Option<View>,
    /// The service's HTTP address
    #[arg(long, env = "QUALM_SERVER", default_value = "http://127.0.0.1:8787")]
    server: String,
    /// Bearer token for the service
    #[arg(long, env = "QUALM_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Ask over NATS instead
    #[arg(long, conflicts_with = "database")]
    nats: Option<String>,
    /// Ask a database instead: of a service, or of a replay
    #[arg(long)]
    database: Option<String>,
    /// How the answer is printed
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Format {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
    /// Markdown, for a ticket.
    Md,
    /// A page to print; of compliance.
    Html,
}

impl Arguments {
    fn subject(&self) -> Subject {
        let mut subject = Subject {
            violation: self.violation.clone(),
            contract: self.contract.clone(),
            objective: self.objective.clone(),
            tenant: self.tenant.clone(),
            application: self.application.clone(),
            inference: self.inference.clone(),
            request: self.request.clone(),
            from: self.from,
            until: self.until,
            view: self.view,
        };
        let slot = match self.question.as_str() {
            "where" => &mut subject.inference,
            "ensemble" | "cost" | "quality" => &mut subject.application,
            "when" | "compliance" => &mut subject.contract,
            _ => &mut subject.violation,
        };
        if self.id.is_some() {
            slot.clone_from(&self.id);
        }
        subject
    }
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let is_page = arguments.format == Format::Html;
    anyhow::ensure!(!is_page || arguments.question == "compliance", "only compliance is printed as html");
    let answered: Answered = super::runtime()?.block_on(ask(arguments))?;
    let text = match (arguments.format, &answered) {
        (Format::Text, _) => answered.text(),
        (Format::Md, _) => answered.markdown(),
        (Format::Html, Answered::Answer(answer)) => explain::compliance_page(answer),
        (Format::Json | Format::Html, _) => serde_json::to_string_pretty(&answered)? + "\n",
    };
    std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes())?;
    Ok(Outcome::Fine)
}

async fn ask(arguments: &Arguments) -> anyhow::Result<Answered> {
    let question = arguments.question.as_str();
    let subject = arguments.subject();
    if let Some(url) = &arguments.database {
        let store = super::open_database(url).await?;
        return Ok(explain::answer(&store, question, &subject).await?);
    }
    let bytes: Vec<u8> = match &arguments.nats {
        Some(url) => {
            let client = nats::connect(url).await?;
            let body = serde_json::to_vec(&subject)?;
            let answer = client.request(format!("qoa.explain.{question}"), body.into()).await;
            let answer = answer.with_context(|| format!("no qualm service answers at {}", without_password(url)))?;
            let header = |name: &str| answer.headers.as_ref().and_then(|headers| headers.get(name));
            if let Some(error) = header("Nats-Service-Error") {
                anyhow::bail!("{error}");
            }
            answer.payload.to_vec()
        }
        None => {
            let mut url = reqwest::Url::parse(arguments.server.trim_end_matches('/'))
                .with_context(|| format!("{} is not an address", arguments.server))?;
            url.set_path(&format!("/v1/explain/{question}"));
            if let serde_json::Value::Object(fields) = serde_json::to_value(&subject)? {
                let pairs = fields.iter().filter_map(|(name, value)| Some((name, value.as_str()?)));
                url.query_pairs_mut().extend_pairs(pairs);
            }
            super::get(url.as_str(), arguments.token.as_deref()).await?
        }
    };
    let unknown = "the service's answer is not one of this version";
    Ok(match question {
        "why" => Answered::Why(serde_json::from_slice::<Box<Why>>(&bytes).context(unknown)?),
        _ => Answered::Answer(serde_json::from_slice::<Box<Answer>>(&bytes).context(unknown)?),
    })
}
