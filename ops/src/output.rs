//! What goes to whom: results to stdout as tables, fields or JSON; talk to stderr. Colours only
//! where somebody sees them, and never as the only sign.

use std::io::{self, ErrorKind, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::failure::{Code, Failure};

/// How good a piece of text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Nothing special.
    Plain,
    /// As it should be.
    Good,
    /// On its way, or worth a look.
    Busy,
    /// Wrong.
    Bad,
    /// Beside the point.
    Faint,
}

impl Tone {
    const COLOURED: [Self; 4] = [Self::Good, Self::Busy, Self::Bad, Self::Faint];

    const fn escape(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Good => "\x1b[32m",
            Self::Busy => "\x1b[33m",
            Self::Bad => "\x1b[31m",
            Self::Faint => "\x1b[2m",
        }
    }

    /// An invisible character without width that stands for the tone while a table is laid out:
    /// the layout would count escape sequences as text.
    const fn mark(self) -> char {
        match self {
            Self::Plain => '\u{2060}',
            Self::Good => '\u{2061}',
            Self::Busy => '\u{2062}',
            Self::Bad => '\u{2063}',
            Self::Faint => '\u{2064}',
        }
    }
}

const RESET: &str = "\x1b[0m";

/// A piece of text in a table.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// Text with a tone.
    pub fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: printable(&text.into()), tone }
    }

    /// Text, or a faint dash where there is none.
    pub fn or_dash(text: Option<impl Into<String>>) -> Self {
        text.map_or_else(|| Self::toned("-", Tone::Faint), |text| Self::from(text.into()))
    }

    fn marked(&self, coloured: bool) -> String {
        if coloured && self.tone != Tone::Plain {
            format!("{}{}{}", self.tone.mark(), self.text, Tone::Plain.mark())
        } else {
            self.text.clone()
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

/// `text` without what could take over a terminal: names and errors come from other people.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .filter(|c| !matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'))
        .filter(|c| !matches!(c, '\u{2060}'..='\u{2069}'))
        .collect()
}

/// Where everything that a command says goes through.
#[derive(Clone, Debug)]
pub struct Output {
    /// Results as JSON, and nothing on stderr but a final error.
    pub json: bool,
    quiet: bool,
    colour_out: bool,
    colour_err: bool,
    /// Columns of the terminal on stdout; none when it is no terminal.
    width: Option<u16>,
    /// Whether progress may redraw lines.
    pub live: bool,
}

impl Output {
    /// As the flags and the environment want it.
    pub fn new(json: bool, quiet: bool, no_color: bool) -> Self {
        let (stdout, stderr) = (io::stdout(), io::stderr());
        let colour = !no_color && !json && ops::config::wants_colour();
        let width = rustix::termios::tcgetwinsize(&stdout).ok().map(|size| size.ws_col);
        Self {
            json,
            quiet: quiet || json,
            colour_out: colour && stdout.is_terminal(),
            colour_err: colour && stderr.is_terminal(),
            width: width.filter(|columns| *columns > 0),
            live: colour && !quiet && stderr.is_terminal(),
        }
    }

    /// A result: to stdout, whatever the flags.
    ///
    /// # Errors
    /// When stdout cannot be written to. A reader that left is no error.
    pub fn print(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(Failure::new(Code::Failed, format!("the output cannot be written: {error}")))
            }
            _ => Ok(()),
        }
    }

    /// One JSON document to stdout, for a reader.
    ///
    /// # Errors
    /// As [`Output::print`].
    pub fn document(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.print(&serde_json::to_string_pretty(value).map_err(anyhow::Error::from)?)
    }

    /// One JSON document on one line to stdout.
    ///
    /// # Errors
    /// As [`Output::print`].
    pub fn line(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.print(&serde_json::to_string(value).map_err(anyhow::Error::from)?)
    }

    /// Talk: to stderr, unless `--quiet` or `--json`.
    pub fn say(&self, text: &str) {
        if !self.quiet {
            self.complain(text);
        }
    }

    /// An error: to stderr always. Where stderr is gone too, nobody is left to tell.
    pub fn complain(&self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// `text` in colour for stdout, if it has colours.
    pub fn paint(&self, text: &str, tone: Tone) -> String {
        paint(text, tone, self.colour_out)
    }

    /// `text` in colour for stderr, if it has colours.
    pub fn paint_err(&self, text: &str, tone: Tone) -> String {
        paint(text, tone, self.colour_err)
    }

    /// Whether talk is wanted.
    pub const fn talks(&self) -> bool {
        !self.quiet
    }

    /// A table to stdout, or `empty` to stderr when it has no rows.
    ///
    /// # Errors
    /// As [`Output::print`].
    pub fn table(&self, header: &[&str], rows: &[Vec<Cell>], empty: &str) -> Result<(), Failure> {
        if rows.is_empty() {
            self.say(empty);
            return Ok(());
        }
        let mut table = self.frame();
        table.set_header(header.iter().map(|name| name.to_uppercase()));
        self.fill(&mut table, rows);
        self.print(&self.laid_out(&table))
    }

    /// Names and values to stdout, one pair a line.
    ///
    /// # Errors
    /// As [`Output::print`].
    pub fn fields(&self, fields: Vec<(&str, Cell)>) -> Result<(), Failure> {
        let mut table = self.frame();
        let rows: Vec<Vec<Cell>> = fields
            .into_iter()
            .map(|(name, value)| vec![Cell::toned(name, Tone::Faint), value])
            .collect();
        self.fill(&mut table, &rows);
        self.print(&self.laid_out(&table))
    }

    /// A link with its name before it, never broken into lines: it is there to be copied.
    ///
    /// # Errors
    /// As [`Output::print`].
    pub fn link(&self, name: &str, url: &str) -> Result<(), Failure> {
        self.print(&format!("{} {}", self.paint(&format!("{name}:"), Tone::Faint), printable(url)))
    }

    fn frame(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        match self.width {
            Some(columns) => {
                table.set_content_arrangement(ContentArrangement::Dynamic).set_width(columns);
            }
            None => {
                table.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        table
    }

    fn fill(&self, table: &mut Table, rows: &[Vec<Cell>]) {
        for row in rows {
            table.add_row(row.iter().map(|cell| cell.marked(self.colour_out)));
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
    }

    /// The table as text: without blanks at the ends of lines, and with the marks made colours.
    fn laid_out(&self, table: &Table) -> String {
        let mut lines: Vec<String> = Vec::new();
        for line in table.lines() {
            let mut line = line.trim_end().to_owned();
            for tone in Tone::COLOURED {
                if line.contains(tone.mark()) {
                    line = line.replace(tone.mark(), tone.escape());
                    line.push_str(RESET);
                }
            }
            lines.push(line.replace(Tone::Plain.mark(), RESET));
        }
        lines.join("\n")
    }
}

fn paint(text: &str, tone: Tone, coloured: bool) -> String {
    if coloured && tone != Tone::Plain {
        format!("{}{text}{RESET}", tone.escape())
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(colour_out: bool, width: Option<u16>) -> Output {
        Output { json: false, quiet: false, colour_out, colour_err: false, width, live: false }
    }

    fn sample(output: &Output) -> String {
        let mut table = output.frame();
        table.set_header(["SLUG", "STATE", "NAME"]);
        let row = vec![
            Cell::from("acme"),
            Cell::toned("active", Tone::Good),
            Cell::from("An academy with a name that is rather long"),
        ];
        output.fill(&mut table, &[row]);
        output.laid_out(&table)
    }

    #[test]
    fn colours_do_not_move_columns() {
        let plain = sample(&output(false, None));
        let coloured = sample(&output(true, None));
        assert!(coloured.contains("\x1b[32mactive\x1b[0m"), "{coloured:?}");
        assert_eq!(coloured.replace("\x1b[32m", "").replace(RESET, ""), plain);
    }

    #[test]
    fn a_table_fits_its_terminal() {
        let narrow = sample(&output(false, Some(40)));
        assert!(narrow.lines().count() > 2 && narrow.lines().all(|line| line.len() <= 40));
    }

    #[test]
    fn a_name_cannot_take_over_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\nc\u{202e}d\u{2061}"), "a [2Jb cd");
    }
}
