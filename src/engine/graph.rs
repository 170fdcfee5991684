//! The execution graph of an application: which instance works on the output of which, as
//! reports say.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::time::{Span, Timestamp};

const INSTANCES_MAX: usize = 1_000;
const EDGES_MAX: usize = 4_000;
/// The time of an edge is brought up to date this often.
pub(super) const STEP: Span = Span::seconds(60);

/// Instances and who hands work to whom.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Graph {
    /// Stage by instance.
    pub instances: BTreeMap<Box<str>, Box<str>>,
    /// Name by id, of instances that reports speak of by id (QoA4ML).
    pub names: BTreeMap<Box<str>, Box<str>>,
    /// From, to, and when it was last seen, within a minute; sorted.
    pub edges: Vec<(Box<str>, Box<str>, Timestamp)>,
    /// Whether there were more instances or edges than are kept.
    pub full: bool,
}

impl Graph {
    /// Notes that an instance has a name.
    pub fn name(&mut self, id: &str, name: &str) {
        if self.names.get(id).is_none_or(|known| **known != *name) {
            if self.names.len() >= INSTANCES_MAX {
                self.full = true;
                return;
            }
            self.names.insert(id.into(), name.into());
            // What was noted by id stands under its name from now on.
            if id != name && self.edges.iter().any(|(from, to, _)| **from == *id || **to == *id) {
                let named = |end: Box<str>| if *end == *id { name.into() } else { end };
                for (from, to, at) in std::mem::take(&mut self.edges) {
                    self.edge(&named(from), &named(to), at);
                }
            }
            self.instances.remove(id);
        }
    }

    /// Notes an instance and those before it.
    pub fn note<'a>(&mut self, stage: &str, instance: &str, upstream: impl Iterator<Item = &'a str>, at: Timestamp) {
        let instance: Box<str> = self.names.get(instance).map_or(instance, |name| name).into();
        if self.instances.get(&instance).is_none_or(|known| **known != *stage) {
            if self.instances.len() >= INSTANCES_MAX && !self.instances.contains_key(&instance) {
                self.full = true;
            } else {
                self.instances.insert(instance.clone(), stage.into());
            }
        }
        for from in upstream {
            let from: Box<str> = self.names.get(from).map_or(from, |name| name).into();
            self.edge(&from, &instance, at);
        }
    }

    fn edge(&mut self, from: &str, to: &str, at: Timestamp) {
        match self.edges.binary_search_by(|(f, t, _)| (&**f, &**t).cmp(&(from, to))) {
            Ok(place) => self.edges[place].2 = self.edges[place].2.max(at),
            Err(_) if self.edges.len() >= EDGES_MAX => self.full = true,
            Err(place) => self.edges.insert(place, (from.into(), to.into(), at)),
        }
    }
}
