//! Text to a tree of nodes, each with its place. Knows nothing of resources; bounds whatever a text can ask for.

use std::collections::HashMap;

use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag};

/// More than the export of a hundred thousand routes.
const MAX_TEXT_BYTES: usize = 64 << 20;

/// Nodes of a file after its aliases: an alias of aliases could stand for any number.
const MAX_NODES: usize = 2_000_000;

/// Broken documents of a file that are told: who has more has another kind of file.
const MAX_BROKEN: usize = 20;

/// Levels of one document; resources have eight.
const MAX_DEPTH: usize = 32;

/// A place in the text, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) line: u32,
    pub(super) column: u32,
}

/// One node of a document.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) at: Mark,
    pub(super) value: Value,
    /// Nodes in it, with itself.
    size: usize,
}

impl Node {
    /// Nothing, or text without a character.
    pub(super) fn is_empty(&self) -> bool {
        match &self.value {
            Value::Null => true,
            Value::Scalar { text, .. } => text.is_empty(),
            Value::List(_) | Value::Map(_) => false,
        }
    }
}

/// What a node is.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// Any scalar. Without quotes it may mean a number or a truth value, where one is wanted.
    Scalar {
        text: String,
        quoted: bool,
    },
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A key of a map.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) text: String,
    pub(super) at: Mark,
}

/// What is wrong with the text itself.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) at: Mark,
    pub(super) message: String,
}

/// Every document, and what is wrong with those that are broken: a line `---` begins the next one whatever came before.
pub(super) fn documents(text: &str) -> (Vec<Node>, Vec<Broken>) {
    if text.len() > MAX_TEXT_BYTES {
        let message = format!("the file is larger than {} MiB", MAX_TEXT_BYTES >> 20);
        return (Vec::new(), vec![Broken { at: Mark { line: 1, column: 1 }, message }]);
    }
    let (mut documents, mut broken) = (Vec::new(), Vec::new());
    let mut builder = Builder::new(text);
    loop {
        match builder.document() {
            Ok(Some(document)) => documents.push(document),
            Ok(None) => break,
            Err(found) => {
                broken.push(found);
                match builder.after_this_document(text) {
                    Some(next) if broken.len() < MAX_BROKEN => builder = next,
                    _ => break,
                }
            }
        }
    }
    (documents, broken)
}

struct Builder<'a> {
    parser: Parser<'a, StrInput<'a>>,
    nodes: usize,
    anchors: HashMap<usize, Node>,
    /// Lines of the text before what is parsed.
    lines_before: u32,
    /// The line that the document under way begins in.
    begun: u32,
}

impl<'a> Builder<'a> {
    fn new(text: &'a str) -> Self {
        Self { parser: Parser::new_from_str(text), nodes: 0, anchors: HashMap::new(), lines_before: 0, begun: 0 }
    }

    /// A builder for what begins with the next line `---`; none where no document follows, or too much was read.
    fn after_this_document(&self, text: &'a str) -> Option<Self> {
        let mut at = 0;
        for (n, line) in (1_u32..).zip(text.split_inclusive('\n')) {
            let marker = line.strip_prefix("---").is_some_and(|rest| rest.trim_start().len() < rest.len());
            if n > self.begun && marker && self.nodes <= MAX_NODES {
                let rest = text.get(at..)?;
                return Some(Self { nodes: self.nodes, lines_before: n - 1, begun: n, ..Self::new(rest) });
            }
            at += line.len();
        }
        None
    }

    fn mark(&self, span: &Span) -> Mark {
        Mark { line: self.lines_before + number(span.start.line()), column: number(span.start.col() + 1) }
    }

    fn document(&mut self) -> Result<Option<Node>, Broken> {
        loop {
            let Some((event, span)) = self.next()? else { return Ok(None) };
            match event {
                Event::StreamStart | Event::DocumentEnd => {}
                Event::DocumentStart(..) => {
                    self.anchors.clear();
                    self.begun = self.mark(&span).line;
                }
                Event::StreamEnd => return Ok(None),
                event => return self.node(event, span, 0).map(Some),
            }
        }
    }

    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, Broken> {
        loop {
            match self.parser.next_event() {
                None => return Ok(None),
                Some(Ok((Event::Comment(..) | Event::Anchor(..), _))) => {}
                Some(Ok(found)) => return Ok(Some(found)),
                Some(Err(error)) => {
                    let marker = error.marker();
                    let line = self.lines_before + number(marker.line());
                    let at = Mark { line, column: number(marker.col() + 1) };
                    return Err(Broken { at, message: format!("cannot be read: {}", plainly(&error.info())) });
                }
            }
        }
    }

    fn expect(&mut self, at: Mark) -> Result<(Event<'a>, Span), Broken> {
        self.next()?.ok_or_else(|| Broken { at, message: "ends in the middle".to_owned() })
    }

    /// The node that begins with this event.
    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Broken> {
        let at = self.mark(&span);
        if depth > MAX_DEPTH {
            return Err(Broken { at, message: format!("is nested deeper than {MAX_DEPTH} levels") });
        }
        self.count(1, at)?;
        let (anchor, tag) = match &event {
            Event::Scalar(_, _, anchor, tag) => (*anchor, tag.as_deref()),
            Event::SequenceStart(_, anchor, tag) | Event::MappingStart(_, anchor, tag) => (*anchor, tag.as_deref()),
            _ => (0, None),
        };
        let text_tag = text_tag(tag, at)?;
        let value = match event {
            Event::Scalar(text, style, ..) => scalar(&text, style != ScalarStyle::Plain || text_tag),
            Event::SequenceStart(..) => Value::List(self.list(at, depth)?),
            Event::MappingStart(..) => Value::Map(self.map(at, depth)?),
            Event::Alias(id) => return self.alias(id, at, depth),
            _ => return Err(Broken { at, message: "is no value".to_owned() }),
        };
        let size = 1 + match &value {
            Value::List(items) => items.iter().map(|item| item.size).sum::<usize>(),
            Value::Map(fields) => fields.iter().map(|(_, field)| field.size).sum(),
            Value::Null | Value::Scalar { .. } => 0,
        };
        let node = Node { at, value, size };
        if anchor != 0 {
            self.count(size, at)?; // the copy that is kept
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, at: Mark, depth: usize) -> Result<Vec<Node>, Broken> {
        let mut items = Vec::new();
        loop {
            match self.expect(at)? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, at: Mark, depth: usize) -> Result<Vec<(Key, Node)>, Broken> {
        let mut fields = Vec::new();
        loop {
            let key = match self.expect(at)? {
                (Event::MappingEnd, _) => return Ok(fields),
                (event, span) => self.node(event, span, depth + 1)?,
            };
            let text = match key.value {
                Value::Scalar { text, .. } => text,
                Value::Null => "null".to_owned(),
                _ => {
                    return Err(Broken {
                        at: key.at,
                        message: "a key must be text: put quotes around text that begins with `{` or `[`".to_owned(),
                    });
                }
            };
            let (event, span) = self.expect(key.at)?;
            let node = self.node(event, span, depth + 1)?;
            fields.push((Key { text, at: key.at }, node));
        }
    }

    fn alias(&mut self, id: usize, at: Mark, depth: usize) -> Result<Node, Broken> {
        let unknown = || Broken { at, message: "this alias has no anchor before it".to_owned() };
        let node = self.anchors.get(&id).ok_or_else(unknown)?;
        if depth + height(node) > MAX_DEPTH {
            return Err(Broken { at, message: format!("is nested deeper than {MAX_DEPTH} levels") });
        }
        let node = node.clone();
        self.count(node.size, at)?;
        Ok(node)
    }

    fn count(&mut self, nodes: usize, at: Mark) -> Result<(), Broken> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            return Err(Broken { at, message: format!("holds more than {MAX_NODES} values, with its aliases") });
        }
        Ok(())
    }
}

/// What the parser says, as what to do about it: it knows grammar, and most mistakes are of a few kinds.
fn plainly(info: &str) -> String {
    const SAID: [(&str, &str); 9] = [
        ("tab", "a tab indents this line: use spaces"),
        (
            "mapping values are not allowed",
            "a `:` where no field can be: is this line, or the one before, indented wrongly, or is a `:` or the space after it missing there?",
        ),
        (
            "did not find expected key",
            "this line begins under no field before it: indent it as those that it belongs to",
        ),
        (
            "trailing content after",
            "something stands behind the quote that ends a text: is a `,` missing there, or a quote before it wrong?",
        ),
        ("multiline quoted scalar", "a quote that was opened before is not closed"),
        ("quoted scalar", "a quote that was opened before is not closed"),
        (
            "unknown anchor",
            "`*` stands for an anchor `&` before it, and there is none of that name: put quotes around text that begins with `*`",
        ),
        ("simple key expected ':'", "a `:` is missing behind the name of a field"),
        ("<document start>", "here another document begins: put a line `---` before it"),
    ];
    if let Some((_, plain)) = SAID.iter().find(|(said, _)| info.contains(said)) {
        return (*plain).to_owned();
    }
    match info.strip_prefix("unexpected character: ") {
        Some(character) => format!("nothing can begin with {character} here: put quotes around text that does"),
        None => info.to_owned(),
    }
}

fn height(node: &Node) -> usize {
    let below = match &node.value {
        Value::List(items) => items.iter().map(height).max(),
        Value::Map(fields) => fields.iter().map(|(_, field)| height(field)).max(),
        Value::Null | Value::Scalar { .. } => None,
    };
    below.map_or(0, |below| below + 1)
}

fn scalar(text: &str, quoted: bool) -> Value {
    if !quoted && matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        return Value::Null;
    }
    Value::Scalar { text: text.to_owned(), quoted }
}

/// Whether a tag makes text of whatever it stands before. What the core schema calls things changes nothing else here;
/// other tags have no meaning.
fn text_tag(tag: Option<&Tag>, at: Mark) -> Result<bool, Broken> {
    match tag.map(|tag| (tag, tag.core_suffix())) {
        None => Ok(false),
        Some((_, Some(core))) => Ok(core == "str"),
        // Not shown: it may stand before a secret.
        Some((_, None)) => {
            Err(Broken { at, message: "a tag (`!…`) has no meaning here: put quotes around the text".to_owned() })
        }
    }
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
