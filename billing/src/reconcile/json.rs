//! JSON (RFC 8259), an object at a time, however long the list that it is in.
//!
//! OpenAI's reports are pages of `data`, buckets with a `start_time` and `results`
//! (<https://platform.openai.com/docs/api-reference/usage/completions>); Anthropic's are the same with `starting_at`
//! (<https://docs.anthropic.com/en/api/admin-api/usage-cost/get-messages-usage-report>). Neither is known here: an object with
//! figures is a line, wherever it is.

use std::{collections::VecDeque, io::BufRead};

use super::{
    bytes::{Bytes, MAX_TEXT_BYTES, Stop},
    line::{FileError, Line, Partial, field},
};

/// Objects and lists within each other.
const MAX_DEPTH: usize = 32;
/// An object whose figures are those of the one that it is in.
const PART: &str = "cache_creation";
/// A page with this is not the last one.
const MORE: &str = "has_more";

/// Values one after another, with or without lines between them.
pub(super) struct Json<R> {
    bytes: Bytes<R>,
    /// What is open, the innermost last.
    open: Vec<Open>,
    ready: VecDeque<Line>,
    /// The last page says that there is another, in this line.
    goes_on: Option<u64>,
}

/// An object or a list that is not closed yet.
struct Open {
    /// The key that it is the value of.
    name: String,
    is_list: bool,
    /// It has a value already.
    has_more: bool,
    /// What it says; of a list nothing.
    said: Partial,
    /// What those around it say.
    around: Partial,
    /// It says that there is another page, in this line.
    goes_on: Option<u64>,
}

/// A value that is neither an object nor a list.
enum Scalar {
    Text(String),
    True,
    Nothing,
}

impl<R: BufRead> Json<R> {
    pub(super) fn new(bytes: Bytes<R>) -> Self {
        Self { bytes, open: Vec::new(), ready: VecDeque::new(), goes_on: None }
    }

    /// The next line that says what was used.
    pub(super) fn next(&mut self) -> Result<Option<Line>, Stop> {
        while self.ready.is_empty() {
            let byte = self.bytes.skip_space()?;
            match (self.open.last(), byte) {
                (None, None) => return self.end(),
                (Some(open), None) => return self.bytes.wrong(&open.name, "ends before it is closed"),
                (Some(open), Some(b']')) if open.is_list => self.close()?,
                (Some(open), Some(b'}')) if !open.is_list => self.close()?,
                (Some(_), Some(_)) => self.member()?,
                (None, Some(_)) => self.value("value".to_owned())?,
            }
        }
        Ok(self.ready.pop_front())
    }

    /// A file whose last page says that there is another is not all of the report.
    fn end(&self) -> Result<Option<Line>, Stop> {
        let Some(line) = self.goes_on else { return Ok(None) };
        let why = "is true in the last page, so the report is not whole: fetch the pages behind it, too, and put them behind each other";
        Err(FileError::new(line, MORE, why).into())
    }

    /// The next value of the innermost list or object.
    fn member(&mut self) -> Result<(), Stop> {
        let Some(open) = self.open.last_mut() else { return Ok(()) };
        let (name, is_list) = (open.name.clone(), open.is_list);
        if std::mem::replace(&mut open.has_more, true) {
            self.expect(b',', &name)?;
            self.bytes.skip_space()?;
        }
        if is_list {
            return self.value(name);
        }
        self.expect(b'"', &name)?;
        let key = self.string(&name)?;
        self.bytes.skip_space()?;
        self.expect(b':', &key)?;
        self.value(key)
    }

    /// A value, or the beginning of one.
    fn value(&mut self, name: String) -> Result<(), Stop> {
        match self.bytes.skip_space()? {
            Some(byte @ (b'{' | b'[')) => {
                self.bytes.next()?;
                self.begin(name, byte == b'[')
            }
            _ => {
                let line = self.bytes.line();
                let scalar = self.scalar(&name)?;
                let Some(object) = self.open.last_mut().filter(|open| !open.is_list) else { return Ok(()) };
                match (field(&name), scalar) {
                    (Some(field), Scalar::Text(text)) => object.said.set(field, &name, text.trim(), line)?,
                    (None, Scalar::True) if name == MORE => object.goes_on = Some(line),
                    _ => {}
                }
                Ok(())
            }
        }
    }

    fn begin(&mut self, name: String, is_list: bool) -> Result<(), Stop> {
        if self.open.len() == MAX_DEPTH {
            return self.bytes.wrong(&name, format!("is within more than {MAX_DEPTH} others"));
        }
        let around = self.open.last().map(|open| open.said.within(&open.around)).unwrap_or_default();
        self.goes_on = None;
        self.open.push(Open { name, is_list, has_more: false, said: Partial::default(), around, goes_on: None });
        Ok(())
    }

    fn close(&mut self) -> Result<(), Stop> {
        self.bytes.next()?;
        let Some(closed) = self.open.pop() else { return Ok(()) };
        let line = self.bytes.line();
        self.goes_on = self.goes_on.or(closed.goes_on);
        match self.open.last_mut().filter(|_| closed.name == PART && !closed.is_list) {
            Some(whole) => whole.said.take_figures(&closed.said, PART, line)?,
            None => self.ready.extend(closed.said.finish(&closed.around, line)?),
        }
        Ok(())
    }

    fn expect(&mut self, wanted: u8, field: &str) -> Result<(), Stop> {
        match self.bytes.next()? {
            Some(byte) if byte == wanted => Ok(()),
            _ => self.bytes.wrong(field, format!("is no JSON: there should be a {}", char::from(wanted))),
        }
    }

    fn scalar(&mut self, name: &str) -> Result<Scalar, Stop> {
        if self.bytes.peek()? == Some(b'"') {
            self.bytes.next()?;
            return self.string(name).map(Scalar::Text);
        }
        let mut text = String::new();
        while let Some(byte) = self.bytes.peek()?.filter(|it| it.is_ascii_alphanumeric() || b"+-.".contains(it)) {
            self.bytes.next()?;
            self.push(&mut text, char::from(byte), name)?;
        }
        match &*text {
            "true" => Ok(Scalar::True),
            "null" | "false" => Ok(Scalar::Nothing),
            number if number.starts_with(|it: char| it.is_ascii_digit() || it == '-') => Ok(Scalar::Text(text)),
            _ => self.bytes.wrong(name, "is no JSON: there should be a value"),
        }
    }

    /// Behind its opening quote.
    fn string(&mut self, name: &str) -> Result<String, Stop> {
        let mut bytes = Vec::new();
        loop {
            if bytes.len() > MAX_TEXT_BYTES {
                return self.too_long(name);
            }
            match self.bytes.next()? {
                Some(b'"') => break,
                Some(b'\\') => {
                    let letter = self.escaped(name)?;
                    bytes.extend(letter.encode_utf8(&mut [0; 4]).as_bytes());
                }
                Some(byte) if byte >= b' ' => bytes.push(byte),
                Some(_) => return self.bytes.wrong(name, "is no JSON: a control character in a string"),
                None => return self.bytes.wrong(name, "has a quote that is not closed"),
            }
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(text),
            Err(_) => self.bytes.wrong(name, "is not UTF-8"),
        }
    }

    fn escaped(&mut self, name: &str) -> Result<char, Stop> {
        Ok(match self.bytes.next()? {
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => self.unicode(name)?,
            _ => return self.bytes.wrong(name, "is no JSON: an escape that there is not"),
        })
    }

    /// A letter of one or two UTF-16 units; half of one is none.
    fn unicode(&mut self, name: &str) -> Result<char, Stop> {
        let first = self.unit(name)?;
        let mut units = vec![first];
        if (0xd800..0xdc00).contains(&first) && self.bytes.peek()? == Some(b'\\') {
            self.bytes.next()?;
            self.expect(b'u', name)?;
            units.push(self.unit(name)?);
        }
        let letters: Vec<char> =
            char::decode_utf16(units).map(|it| it.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
        Ok(letters.first().copied().unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn unit(&mut self, name: &str) -> Result<u16, Stop> {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.bytes.next()?.and_then(|byte| char::from(byte).to_digit(16));
            match digit.and_then(|digit| u16::try_from(digit).ok()) {
                Some(digit) => unit = unit << 4 | digit,
                None => return self.bytes.wrong(name, "is no JSON: an escape that there is not"),
            }
        }
        Ok(unit)
    }

    fn push(&self, text: &mut String, letter: char, name: &str) -> Result<(), Stop> {
        if text.len() >= MAX_TEXT_BYTES {
            return self.too_long(name);
        }
        text.push(letter);
        Ok(())
    }

    fn too_long<T>(&self, name: &str) -> Result<T, Stop> {
        self.bytes.wrong(name, format!("has more than {MAX_TEXT_BYTES} bytes"))
    }
}
