//! Progress for people: a line for each step that ends, and on a terminal a moving one for the
//! step under way.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use control_types::state::{OperationState, StepEvent};
use indicatif::{ProgressBar, ProgressStyle};
use provisioner_api::{Operation, OperationEvent};
use time::OffsetDateTime;

use super::{Listener, remark, words};
use crate::{
    failure::Failure,
    output::{Output, Tone},
    when,
};

/// What was said of an operation so far.
pub struct Steps<'a> {
    output: &'a Output,
    bar: Option<ProgressBar>,
    /// Widest name of a step.
    width: usize,
    started: HashMap<String, OffsetDateTime>,
    /// When we heard of the step under way. By this clock, which need not be the provisioner's.
    heard_at: Instant,
    /// What was said last of a step that waits or is tried again: said once.
    said: Option<(String, StepEvent, Option<String>)>,
}

impl<'a> Steps<'a> {
    /// For one operation.
    pub fn new(output: &'a Output, operation: &Operation) -> Self {
        let bar = output.live.then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) =
                ProgressStyle::with_template("  {spinner:<8} {wide_msg} {elapsed:>5}")
            {
                bar.set_style(style.tick_chars("-\\|/ "));
            }
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        let width = operation.steps.iter().map(|step| step.step.chars().count()).max();
        Self {
            output,
            bar,
            width: width.unwrap_or(0),
            started: HashMap::new(),
            heard_at: Instant::now(),
            said: None,
        }
    }

    /// Takes the moving line away.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn tell(&self, word: &str, tone: Tone, step: &str, rest: &str) {
        let word = self.output.paint_err(&format!("{word:<8}"), tone);
        let line = format!("  {word} {:<width$}  {rest}", words(step), width = self.width);
        let line = line.trim_end();
        match &self.bar {
            Some(bar) => bar.suspend(|| self.output.say(line)),
            None => self.output.say(line),
        }
    }

    fn now_at(&self, text: String) {
        if let Some(bar) = &self.bar {
            bar.set_message(text);
        }
    }

    /// How long the step took that began last under this name.
    fn took(&self, event: &OperationEvent) -> String {
        self.started
            .get(&event.step)
            .map_or_else(String::new, |at| when::took(when::between(*at, event.at)))
    }

    /// Says it unless it was the last thing said.
    fn tell_once(&mut self, word: &str, event: &OperationEvent, rest: &str) {
        let saying = (event.step.clone(), event.event, remark(event));
        if self.said.as_ref() != Some(&saying) {
            self.tell(word, Tone::Busy, &event.step, rest);
            self.said = Some(saying);
        }
    }
}

impl Listener for Steps<'_> {
    fn happened(&mut self, _: &Operation, event: &OperationEvent) -> Result<(), Failure> {
        if !self.output.talks() {
            return Ok(());
        }
        let step = event.step.as_str();
        let remark = remark(event).unwrap_or_default();
        match event.event {
            StepEvent::Started | StepEvent::UndoStarted => {
                // A step that is tried again keeps its first beginning.
                if event.attempt <= 1 || !self.started.contains_key(step) {
                    self.started.insert(step.to_owned(), event.at);
                }
                self.heard_at = Instant::now();
                if let Some(bar) = &self.bar {
                    bar.reset_elapsed();
                }
                let undo = if event.event == StepEvent::Started { "" } else { "undo " };
                self.now_at(format!("{undo}{}", words(step)));
            }
            StepEvent::Succeeded => {
                let rest = format!("{}  {remark}", self.took(event));
                self.tell("done", Tone::Good, step, rest.trim_end());
            }
            StepEvent::Undone => self.tell("undone", Tone::Busy, step, &self.took(event)),
            StepEvent::Failed => self.tell("failed", Tone::Bad, step, &remark),
            StepEvent::Waiting => {
                self.now_at(format!("{} waits: {remark}", words(step)));
                self.tell_once("waits", event, &remark);
            }
            StepEvent::Retried | StepEvent::UndoFailed => {
                let rest = format!("try {} failed: {remark}", event.attempt);
                self.tell_once("again", event, rest.trim_end_matches(": "));
            }
        }
        Ok(())
    }

    fn quiet(&mut self, operation: &Operation) {
        if operation.state == OperationState::Queued {
            self.now_at("waits for its turn".into());
        }
        // The moving line shows its own clock.
        if self.bar.is_none() && operation.state == OperationState::Running {
            let done = usize::try_from(operation.steps_done).unwrap_or(usize::MAX);
            if let Some(step) = operation.steps.get(done) {
                let long = when::took(self.heard_at.elapsed());
                self.tell("still at", Tone::Faint, &step.step, &long);
            }
        }
    }

    fn away(&mut self) {
        self.now_at("the provisioner does not answer; trying again".into());
        if self.bar.is_none() {
            self.output.say("  the provisioner does not answer; trying again");
        }
    }
}
