//! YAML (and so JSON) into a JSON value, with the place of every key and value.

use std::collections::HashMap;

use saphyr::{Scalar, ScalarStyle};
use saphyr_parser::{Event, Marker, Parser};
use serde_json::{Map, Number, Value as Json};

const DEPTH_MAX: usize = 64;
const NODES_MAX: usize = 100_000;

/// Line and column, both from 1.
pub(super) type Place = (usize, usize);

/// A parsed document and where its parts stand.
pub(super) struct Document {
    pub(super) value: Json,
    /// By JSON pointer: where the value's key stands (for array items and the root, the value).
    places: HashMap<String, Place>,
}

impl Document {
    /// Where a JSON pointer leads; the nearest part above it that exists, if it leads nowhere.
    pub(super) fn place(&self, pointer: &str) -> Place {
        let mut pointer = pointer;
        loop {
            if let Some(place) = self.places.get(pointer) {
                return *place;
            }
            match pointer.rfind('/') {
                Some(cut) => pointer = &pointer[..cut],
                None => return (1, 1),
            }
        }
    }
}

/// A syntax error.
pub(super) struct SyntaxError {
    pub(super) place: Place,
    pub(super) message: String,
}

/// Reads one YAML document. Aliases are refused (a small file could grow without bound),
/// duplicate keys too.
pub(super) fn parse(text: &str) -> Result<Document, SyntaxError> {
    let mut reader = Reader { parser: Parser::new_from_str(text), places: HashMap::new(), nodes: 0 };
    loop {
        match reader.next()? {
            (Event::StreamStart | Event::DocumentStart(_) | Event::Nothing, _) => {}
            (Event::StreamEnd, at) => {
                return Err(SyntaxError { place: at, message: "the file holds no document".to_owned() });
            }
            (event, at) => {
                let value = reader.value(event, at, "", 0)?;
                reader.end()?;
                return Ok(Document { value, places: reader.places });
            }
        }
    }
}

struct Reader<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    places: HashMap<String, Place>,
    nodes: usize,
}

fn place(marker: &Marker) -> Place {
    (marker.line(), marker.col() + 1)
}

fn fault<T>(place: Place, message: impl Into<String>) -> Result<T, SyntaxError> {
    Err(SyntaxError { place, message: message.into() })
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Place), SyntaxError> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, place(&span.start))),
            Some(Err(error)) => fault(place(error.marker()), error.info()),
            None => fault((1, 1), "the file ends too early"),
        }
    }

    fn end(&mut self) -> Result<(), SyntaxError> {
        loop {
            match self.next()? {
                (Event::DocumentEnd, _) => {}
                (Event::StreamEnd, _) => return Ok(()),
                (_, at) => return fault(at, "a second document; write one contract a file"),
            }
        }
    }

    fn value(&mut self, event: Event<'a>, at: Place, pointer: &str, depth: usize) -> Result<Json, SyntaxError> {
        self.places.entry(pointer.to_owned()).or_insert(at);
        self.nodes += 1;
        if depth > DEPTH_MAX || self.nodes > NODES_MAX {
            return fault(at, "nested too deeply, or too large for a contract");
        }
        match event {
            Event::Scalar(text, style, _, tag) => {
                match Scalar::parse_from_cow_and_metadata(text, style, tag.as_ref()) {
                    Some(Scalar::Null) => Ok(Json::Null),
                    Some(Scalar::Boolean(flag)) => Ok(Json::Bool(flag)),
                    Some(Scalar::Integer(number)) => Ok(Json::Number(number.into())),
                    Some(Scalar::FloatingPoint(number)) => match Number::from_f64(*number) {
                        Some(number) => Ok(Json::Number(number)),
                        None => fault(at, "a number must be finite"),
                    },
                    Some(Scalar::String(text)) => Ok(Json::String(text.into_owned())),
                    None => fault(at, "the value does not fit its tag"),
                }
            }
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => return Ok(Json::Array(items)),
                        (event, at) => {
                            let pointer = format!("{pointer}/{}", items.len());
                            items.push(self.value(event, at, &pointer, depth + 1)?);
                        }
                    }
                }
            }
            Event::MappingStart(..) => self.mapping(pointer, depth),
            Event::Alias(_) => fault(at, "aliases (`*name`) are not supported; write the value out"),
            _ => fault(at, "expected a value"),
        }
    }

    fn mapping(&mut self, pointer: &str, depth: usize) -> Result<Json, SyntaxError> {
        let mut fields = Map::new();
        loop {
            let (event, at) = self.next()?;
            let key = match event {
                Event::MappingEnd => return Ok(Json::Object(fields)),
                Event::Scalar(text, ScalarStyle::Plain, _, _) if &*text == "<<" => {
                    return fault(at, "merge keys (`<<`) are not supported; write the fields out");
                }
                Event::Scalar(text, ..) => text.into_owned(),
                _ => return fault(at, "a key must be text"),
            };
            let below = format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1"));
            if fields.contains_key(&key) {
                return fault(at, format!("the key `{key}` stands twice"));
            }
            self.places.insert(below.clone(), at);
            let (event, at) = self.next()?;
            let value = self.value(event, at, &below, depth + 1)?;
            fields.insert(key, value);
        }
    }
}
