//! Reads requests as strictly as the RFC lets a server: what passes here is read alike by every
//! program. Anything else is an error with a reason.

/// A name in lower case and a value; bytes beyond ASCII as the letters of Latin-1.
pub type Field = (String, String);

#[derive(Clone, Debug)]
pub struct Head {
    pub method: String,
    pub target: String,
    pub fields: Vec<Field>,
}

impl Head {
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.fields.iter().filter(move |field| field.0 == name).map(|field| field.1.as_str())
    }

    pub fn one(&self, name: &str) -> &str {
        let found = self.fields.iter().find(|field| field.0 == name);
        found.map(|field| field.1.as_str()).unwrap_or_default()
    }
}

#[derive(Debug)]
pub enum Event {
    Head(Head),
    Trailers(Vec<Field>),
    End,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Head,
    Body(usize),
    Size,
    Piece(usize),
    PieceEnd,
    Trailers,
}

/// Where one connection is.
#[derive(Debug, Default)]
pub struct Reader {
    unread: Vec<u8>,
    state: State,
}

impl Reader {
    /// What comes with these bytes.
    pub fn read(&mut self, data: &[u8]) -> Result<Vec<Event>, String> {
        self.unread.extend(data);
        let mut events = Vec::new();
        while self.step(&mut events)? {}
        Ok(events)
    }

    fn step(&mut self, events: &mut Vec<Event>) -> Result<bool, String> {
        match self.state {
            State::Head => {
                let Some(text) = self.until(b"\r\n\r\n") else { return Ok(false) };
                let head = head(&text)?;
                self.state = framing(&head)?;
                events.push(Event::Head(head));
            }
            State::Body(length) | State::Piece(length) if self.unread.len() < length => {
                return Ok(false);
            }
            State::Body(length) => {
                self.unread.drain(..length);
                self.state = State::Head;
                events.push(Event::End);
            }
            State::Piece(length) => {
                self.unread.drain(..length);
                self.state = State::PieceEnd;
            }
            State::PieceEnd => {
                let Some(rest) = self.until(b"\r\n") else { return Ok(false) };
                if !rest.is_empty() {
                    return Err("a chunk is longer than it says".to_owned());
                }
                self.state = State::Size;
            }
            State::Size => {
                let Some(size) = self.until(b"\r\n") else { return Ok(false) };
                let size = text(&size);
                if !size.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    return Err(format!("a chunk of size {size:?}"));
                }
                let size = usize::from_str_radix(&size, 16);
                let size = size.map_err(|error| format!("a chunk's size: {error}"))?;
                self.state = if size == 0 { State::Trailers } else { State::Piece(size) };
            }
            State::Trailers => {
                let lines = if self.unread.starts_with(b"\r\n") {
                    self.unread.drain(..2);
                    Vec::new()
                } else {
                    let Some(lines) = self.until(b"\r\n\r\n") else { return Ok(false) };
                    fields(&lines)?
                };
                self.state = State::Head;
                events.extend([Event::Trailers(lines), Event::End]);
            }
        }
        Ok(true)
    }

    /// What stands before `end`, once that has come.
    fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        let at = self.unread.windows(end.len()).position(|bytes| bytes == end)?;
        let mut before: Vec<u8> = self.unread.drain(..at + end.len()).collect();
        before.truncate(at);
        Some(before)
    }
}

fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

fn head(bytes: &[u8]) -> Result<Head, String> {
    let (line, rest) = match bytes.windows(2).position(|end| end == b"\r\n") {
        Some(at) => (&bytes[..at], &bytes[at + 2..]),
        None => (bytes, &[][..]),
    };
    let line = text(line);
    let parts: Vec<&str> = line.split(' ').collect();
    let [method, target, "HTTP/1.1"] = parts[..] else {
        return Err(format!("a request line {line:?}"));
    };
    let is_plain = target.bytes().all(|byte| (0x21..=0x7e).contains(&byte));
    if !target.starts_with('/') || !is_plain {
        return Err(format!("a target {target:?}"));
    }
    const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    if !METHODS.contains(&method) {
        return Err(format!("a method {method:?}"));
    }
    Ok(Head { method: method.to_owned(), target: target.to_owned(), fields: fields(rest)? })
}

fn fields(bytes: &[u8]) -> Result<Vec<Field>, String> {
    let lines = text(bytes);
    lines.split("\r\n").filter(|line| !line.is_empty()).map(field).collect()
}

fn field(line: &str) -> Result<Field, String> {
    let (name, value) = line.split_once(':').ok_or_else(|| format!("a line {line:?}"))?;
    let token = |letter: char| letter.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(letter);
    if name.is_empty() || !name.chars().all(token) {
        return Err(format!("a name {name:?}"));
    }
    if value.chars().any(|letter| (letter < ' ' && letter != '\t') || letter == '\u{7f}') {
        return Err(format!("a value {value:?}"));
    }
    Ok((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()))
}

fn framing(head: &Head) -> Result<State, String> {
    let lengths: Vec<&str> = head.all("content-length").collect();
    let encodings: Vec<&str> = head.all("transfer-encoding").collect();
    match (&lengths[..], &encodings[..]) {
        ([], []) => Ok(State::Body(0)),
        ([], ["chunked"]) => Ok(State::Size),
        ([length], []) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
            length.parse().map(State::Body).map_err(|error| format!("{length:?}: {error}"))
        }
        _ => Err(format!("framing by {lengths:?} and {encodings:?}")),
    }
}
