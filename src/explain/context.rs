//! What every question begins with: whom it is for, what it is about, and what was asked for it.

use serde_json::{Value as Json, json};

use super::facts::{HOUR, Labels, labels_of};
use super::{Answer, ExplainError, Link, Result, Section, Subject, View};
use crate::contract::{self, Contract, Objective};
use crate::engine::{Evidence, Window};
use crate::store::{Asked, AskedRow, Store, ViolationRecord};
use crate::time::{Span, Timestamp};

const PERIOD: Span = Span::seconds(86_400);

/// A question under way.
pub(super) struct Context<'s> {
    pub store: &'s Store,
    pub question: &'s str,
    pub subject: Subject,
    pub view: View,
    /// Dimensions whose values the reader does not see.
    pub keep_back: Vec<String>,
    pub queries: Vec<Asked>,
    pub links: Vec<Link>,
    pub sections: Vec<Section>,
}

/// A violation with all that is known of its promise.
pub(super) struct Breach {
    pub violation: ViolationRecord,
    pub contract: Contract,
    pub objective: Objective,
    /// The window that was judged when it opened.
    pub window: Window,
    /// The window end of the first breach.
    pub since: Timestamp,
    pub value: Option<f64>,
    pub indicator: String,
    /// All that was known when it opened.
    pub detail: Json,
}

impl<'s> Context<'s> {
    pub fn new(store: &'s Store, question: &'s str, subject: &Subject) -> Context<'s> {
        Context {
            store,
            question,
            subject: subject.clone(),
            view: subject.view.unwrap_or_default(),
            keep_back: Vec::new(),
            queries: Vec::new(),
            links: Vec::new(),
            sections: Vec::new(),
        }
    }

    /// Asks the store, and names the query in the answer.
    pub async fn ask(&mut self, asked: Asked) -> Result<Vec<AskedRow>> {
        let rows = self.store.ask(&asked).await?;
        self.queries.push(asked);
        Ok(rows)
    }

    /// A table of the answer.
    pub fn section(&mut self, title: &str, columns: &[&str], rows: Vec<Vec<String>>) {
        let columns = columns.iter().map(|column| (*column).to_owned()).collect();
        self.sections.push(Section { title: title.to_owned(), columns, rows });
    }

    pub fn link(&mut self, title: &str, href: String) {
        self.links.push(Link { title: title.to_owned(), href });
    }

    /// The answer.
    pub fn answer(self, sentences: Vec<String>, evidence: Json) -> Answer {
        let Context { question, subject, view, queries, links, sections, .. } = self;
        Answer { question: question.to_owned(), view, subject, sentences, evidence, sections, queries, links }
    }

    /// Whether the reader may know the values of a dimension.
    pub fn shows(&self, dimension: &str) -> bool {
        self.view == View::Provider || !self.keep_back.iter().any(|kept| kept == dimension)
    }

    /// What the reader sees of a dimension's value.
    pub fn shown<'v>(&self, dimension: &str, value: &'v str) -> &'v str {
        if self.shows(dimension) { value } else { "(kept back)" }
    }

    /// `name=value` of each label, as the reader may see it.
    pub fn pairs(&self, labels: &Labels) -> Vec<String> {
        labels.iter().map(|(name, value)| format!("{name}={}", self.shown(name, value))).collect()
    }

    /// Labels as evidence, as the reader may see them.
    pub fn shown_labels(&self, labels: &Labels) -> Json {
        labels.iter().map(|(name, value)| (name.clone(), Json::from(self.shown(name, value)))).collect()
    }

    /// Notes what a contract keeps back from its consumers.
    pub fn read_for(&mut self, contract: &Contract) {
        self.keep_back.extend(contract.spec.visibility.keep_back.iter().cloned());
    }

    /// The violation that is asked about.
    pub async fn breach(&mut self) -> Result<Breach> {
        let asks = format!("ask {} about a violation: its id is missing", self.question);
        let id = self.subject.violation.clone().ok_or(ExplainError::Subject(asks))?;
        let missing = || ExplainError::NotFound("violation", id.clone());
        let violation = self.store.violation(&id).await?.ok_or_else(missing)?;
        let sql = "SELECT detail FROM transitions WHERE violation = $1 AND state = 'open'";
        let rows = self.ask(Asked::new("what was found when it opened", sql, [id.as_str().into()])).await?;
        let detail = rows.first().ok_or_else(missing)?.json("detail")?;
        let evidence: Option<Evidence> = serde_json::from_value(detail["evidence"].clone()).ok();
        let evidence = evidence.ok_or_else(missing)?;
        let since = detail["since"].as_str().and_then(|text| text.parse().ok()).unwrap_or(violation.opened_at);
        let contract = self.contract(&violation.contract, Some(&violation.version)).await?;
        let objective = contract.spec.objectives.iter().find(|objective| objective.name == violation.objective);
        let objective = objective.cloned().ok_or_else(missing)?;
        self.read_for(&contract);
        self.link("the violation", format!("/v1/violations/{id}"));
        self.link("why", format!("/v1/explain/why?violation={id}"));
        Ok(Breach {
            value: detail["value"].as_f64(),
            indicator: evidence.indicator,
            window: evidence.window,
            violation,
            contract,
            objective,
            since,
            detail,
        })
    }

    /// A contract: the newest accepted one of a name, or of a name and version.
    pub async fn contract(&mut self, name: &str, version: Option<&str>) -> Result<Contract> {
        let versions = self.store.contract_versions(name).await?;
        let fits = |known: &&crate::store::ContractVersion| version.is_none_or(|version| known.version == version);
        let found = versions.iter().find(fits).or(versions.first());
        let loaded = found.map(|version| contract::load(&version.origin, &version.source));
        loaded.and_then(|loaded| loaded.contract).ok_or_else(|| ExplainError::NotFound("contract", name.to_owned()))
    }

    /// The contract that is asked about.
    pub async fn asked_contract(&mut self) -> Result<Contract> {
        let asks = format!("ask {} about a contract: its name is missing", self.question);
        let name = self.subject.contract.clone().ok_or(ExplainError::Subject(asks))?;
        let contract = self.contract(&name, None).await?;
        self.read_for(&contract);
        self.link("the contract", format!("/v1/contracts/{name}"));
        Ok(contract)
    }

    /// The application that is asked about: tenant, name, newest event time.
    pub async fn application(&mut self) -> Result<(String, String, Timestamp)> {
        let asks = format!("ask {} about an application: its name is missing", self.question);
        let name = self.subject.application.clone().ok_or(ExplainError::Subject(asks))?;
        let tenant = self.subject.tenant.clone().unwrap_or_else(|| "default".to_owned());
        let clock = self.clock(&tenant, &name).await?;
        // What any contract of the application keeps back is kept back from its consumers.
        if self.view == View::Consumer {
            for version in self.store.contracts_in_force().await? {
                if let Some(contract) = contract::load(&version.origin, &version.source).contract
                    && contract.spec.scope.tenant == tenant
                    && contract.spec.scope.application == name
                {
                    self.read_for(&contract);
                }
            }
        }
        self.subject.tenant = Some(tenant.clone());
        Ok((tenant, name, clock))
    }

    /// The newest event time of an application.
    pub async fn clock(&mut self, tenant: &str, application: &str) -> Result<Timestamp> {
        let sql = "SELECT clock_at FROM applications WHERE tenant = $1 AND application = $2";
        let asked = Asked::new("newest event time", sql, [tenant.into(), application.into()]);
        let rows = self.store.ask(&asked).await?;
        let missing = || ExplainError::NotFound("watched application", application.to_owned());
        Ok(rows.first().ok_or_else(missing)?.time("clock_at")?)
    }

    /// The period that is asked about.
    pub fn period(&mut self, clock: Timestamp, usual: Option<Span>) -> Result<(Timestamp, Timestamp)> {
        let until = self.subject.until.unwrap_or(clock.floor(Span::seconds(1)) + Span::seconds(1));
        // From a full hour on: these are added up already.
        let usual_from = (until - usual.unwrap_or(PERIOD)).floor(HOUR).max(Timestamp::EPOCH);
        let from = self.subject.from.unwrap_or(usual_from);
        if from >= until {
            return Err(ExplainError::Subject(format!("the period from {from} until {until} is empty")));
        }
        (self.subject.from, self.subject.until) = (Some(from), Some(until));
        Ok((from, until))
    }
}

impl Breach {
    /// The time that is looked at, and the time before that it is compared with: the breach is taken from
    /// the start of its first window on, while it lasts, for at most four windows beyond its opening.
    pub fn periods(&self, clock: Timestamp, width: Span) -> [(Timestamp, Timestamp); 2] {
        let window = self.window.end.since(self.window.start).max(width);
        let start = (self.since - window).floor(width);
        let opened = self.violation.opened_at.max(self.window.end);
        let last = match self.violation.resolved_at {
            Some(resolved) => (resolved - window).max(opened),
            None => clock,
        };
        let end = (last.min(opened + Span::from_micros(4 * window.as_micros()))).max(opened);
        let before = Span::from_micros((12 * window.as_micros()).max(Span::seconds(600).as_micros()));
        [(start, ceiling(end, width)), (start - before, start)]
    }

    /// Label to value of the series.
    pub fn series(&self) -> Labels {
        labels_of(&self.violation.series)
    }

    /// `contract/objective`, with the series.
    pub fn name(&self, context: &Context<'_>) -> String {
        let labels = context.pairs(&self.series());
        let of = if labels.is_empty() { String::new() } else { format!(" for {}", labels.join(", ")) };
        format!("{}/{}{of}", self.violation.contract, self.violation.objective)
    }
}

/// The earliest multiple of a width that is not before a time.
pub(super) fn ceiling(time: Timestamp, width: Span) -> Timestamp {
    let floor = time.floor(width);
    if floor < time { floor + width } else { floor }
}

/// A period as evidence.
pub(super) fn span_json((from, until): (Timestamp, Timestamp)) -> Json {
    json!({"from": from, "until": until})
}
