//! What is shown: plain text, with a little colour where someone is looking.

use std::io::IsTerminal;
use std::time::Instant;

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const GREEN: &str = "\x1b[32m";

/// The terminal, or whatever takes its place.
#[derive(Debug)]
pub(crate) struct Screen {
    colour: bool,
    start: Instant,
    step: u32,
}

impl Screen {
    /// Colour only on a terminal, and not when the user asks for none (no-color.org).
    pub(crate) fn new() -> Self {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self {
            colour,
            start: Instant::now(),
            step: 0,
        }
    }

    /// The heading of what comes next.
    pub(crate) fn step(&mut self, title: &str) {
        self.step += 1;
        let at = format!("{:5.1} s", self.start.elapsed().as_secs_f64());
        let (at, title) = (
            self.paint(DIM, &at),
            self.paint(BOLD, &format!("{}. {title}", self.step)),
        );
        println!("\n{at}  {title}");
    }

    /// A line below it.
    pub(crate) fn line(&self, text: &str) {
        println!("         {text}");
    }

    /// A line that is the good news.
    pub(crate) fn good(&self, text: &str) {
        println!("         {}", self.paint(GREEN, text));
    }

    /// A line at the margin.
    pub(crate) fn plain(&self, text: &str) {
        println!("{text}");
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("{code}{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}
