//! Tables of measured figures, each beside its target.

use std::{
    io::{self, Write},
    str::FromStr,
    time::Duration,
};

use serde_json::{Value, json};

/// One line of the table.
#[derive(Debug)]
#[must_use = "a figure is to be printed"]
pub struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    target: Option<Target>,
    detail: String,
}

#[derive(Clone, Copy, Debug)]
enum Target {
    AtLeast(f64),
    AtMost(f64),
}

/// How a table is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// A line for each figure.
    Text,
    /// A list of objects.
    Json,
}

impl FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Output, String> {
        match text {
            "text" => Ok(Output::Text),
            "json" => Ok(Output::Json),
            other => Err(format!("`{other}` is neither text nor json")),
        }
    }
}

impl Figure {
    /// Without a target.
    pub fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Figure {
        Figure { name: name.into(), value, unit, target: None, detail: String::new() }
    }

    /// The middle of the ratios of two sides' rounds, and between what the middle half of them is.
    pub fn ratio(name: impl Into<String>, ours: &[f64], theirs: &[f64]) -> Figure {
        let mut ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
        ratios.sort_unstable_by(f64::total_cmp);
        let quarter = ratios.len() / 4;
        let (low, high) = (ratios[quarter], ratios[ratios.len() - 1 - quarter]);
        let detail = format!("half of {} rounds within {low:.3} to {high:.3}", ratios.len());
        Figure::new(name, median(&ratios), "").detail(detail)
    }

    /// What it shall not be below.
    pub fn at_least(self, target: f64) -> Figure {
        Figure { target: Some(Target::AtLeast(target)), ..self }
    }

    /// What it shall not be above.
    pub fn at_most(self, target: f64) -> Figure {
        Figure { target: Some(Target::AtMost(target)), ..self }
    }

    /// What else there is to say of it.
    pub fn detail(self, detail: String) -> Figure {
        Figure { detail, ..self }
    }

    /// One more thing to say of it, before the rest.
    pub fn and(self, more: &str) -> Figure {
        Figure { detail: format!("{more}; {}", self.detail), ..self }
    }

    fn is_met(&self) -> Option<bool> {
        self.target.map(|target| match target {
            Target::AtLeast(least) => self.value >= least,
            Target::AtMost(most) => self.value <= most,
        })
    }

    fn to_json(&self) -> Value {
        let (kind, target) = match self.target {
            Some(Target::AtLeast(target)) => ("atLeast", Some(target)),
            Some(Target::AtMost(target)) => ("atMost", Some(target)),
            None => ("none", None),
        };
        json!({
            "figure": self.name, "value": self.value, "unit": self.unit, "target": target, "targetKind": kind,
            "met": self.is_met(), "detail": self.detail,
        })
    }

    fn to_line(&self) -> String {
        let target = match self.target {
            Some(Target::AtLeast(target)) => format!(">= {target:.3}"),
            Some(Target::AtMost(target)) => format!("<= {target:.3}"),
            None => String::new(),
        };
        let met = match self.is_met() {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "",
        };
        let Figure { name, value, unit, detail, .. } = self;
        format!("{name:<58} {value:>12.4} {unit:<4} {target:<12} {met:<4} {detail}")
    }
}

/// All of them, below a title where people read it.
///
/// # Errors
/// Standard output is gone.
pub fn print(figures: &[Figure], title: &str, output: Output) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match output {
        Output::Json => {
            let all: Vec<Value> = figures.iter().map(Figure::to_json).collect();
            writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
        }
        Output::Text => {
            writeln!(out, "{title}\n")?;
            for figure in figures {
                writeln!(out, "{}", figure.to_line())?;
            }
        }
    }
    Ok(())
}

/// The one in the middle.
///
/// # Panics
/// There is none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// `5s`, as an option of a program says it.
///
/// # Errors
/// It is nothing like that, or no time at all.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').and_then(|number| number.parse().ok()).filter(|number| *number > 0);
    number.map(Duration::from_secs).ok_or_else(|| format!("`{text}` is no time like 5s"))
}
