//! Clocks that are wrong, for one process: `clock.c`, compiled at test time, before the C library's.

use std::{fs, path::PathBuf};

use tempfile::TempDir;

use super::shim;

const SOURCE: &str = include_str!("clock.c");

/// What the clocks of a process show from now on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skew {
    /// By how many milliseconds wall time is off.
    pub offset_ms: i64,
    /// How many millionths of the time that passes are gained.
    pub ppm: i64,
    /// Whether monotonic time gains as much. It never jumps.
    pub both: bool,
}

impl Skew {
    /// Off by so much, at the right rate.
    pub fn step(offset_ms: i64) -> Skew {
        Skew { offset_ms, ..Skew::default() }
    }
}

/// The compiled clock, and the file that steers it.
#[derive(Debug)]
pub struct SkewedClock {
    dir: TempDir,
}

impl SkewedClock {
    /// Compiles it with the system's C compiler. It is right until it is set.
    ///
    /// # Errors
    /// There is none, or it refuses.
    pub fn build() -> anyhow::Result<SkewedClock> {
        let dir = tempfile::Builder::new().prefix("tollgate-clock-").tempdir()?;
        shim::compile(SOURCE, &dir.path().join("clock.so"))?;
        let clock = SkewedClock { dir };
        clock.set(Skew::default())?;
        Ok(clock)
    }

    /// Environment for a process that shall have this clock.
    pub fn env(&self) -> Vec<(String, String)> {
        let library = self.dir.path().join("clock.so");
        vec![
            ("LD_PRELOAD".into(), library.to_string_lossy().into_owned()),
            ("TOLLGATE_CLOCK".into(), self.control().to_string_lossy().into_owned()),
        ]
    }

    /// Changes the clock; the process sees it within some milliseconds.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn set(&self, skew: Skew) -> anyhow::Result<()> {
        let new = self.dir.path().join("control.new");
        fs::write(&new, format!("{} {} {}", skew.offset_ms, skew.ppm, u8::from(skew.both)))?;
        Ok(fs::rename(new, self.control())?)
    }

    fn control(&self) -> PathBuf {
        self.dir.path().join("control")
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// What `date` shows under the clock, in seconds.
    fn date(clock: &SkewedClock) -> i64 {
        let output = Command::new("date").arg("+%s").envs(clock.env()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
    }

    #[test]
    fn a_process_sees_the_clock_that_it_was_given() {
        let clock = SkewedClock::build().unwrap();
        let real = || i64::try_from(crate::now().as_secs()).unwrap();
        assert!((date(&clock) - real()).abs() <= 1);
        clock.set(Skew::step(3_600_000)).unwrap();
        assert!((date(&clock) - real() - 3_600).abs() <= 1);
        clock.set(Skew::step(-1_000 * real())).unwrap();
        assert!(date(&clock) <= 5);
    }

    #[test]
    fn a_rate_is_seen_by_a_process_that_runs_on_both_clocks_or_on_one() {
        let clock = SkewedClock::build().unwrap();
        // Python is no part of the product; without it there is nothing here to run for a while.
        let script =
            "import time\nw,m=time.time(),time.monotonic()\ntime.sleep(0.5)\nprint(time.time()-w,time.monotonic()-m)";
        let run = |skew| -> Option<(f64, f64)> {
            clock.set(skew).unwrap();
            let output = Command::new("python3").args(["-c", script]).envs(clock.env()).output().ok()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let (wall, mono) = text.trim().split_once(' ')?;
            Some((wall.parse().ok()?, mono.parse().ok()?))
        };
        let double = Skew { ppm: 1_000_000, ..Skew::default() };
        let Some((wall, mono)) = run(double) else { return };
        assert!(wall / mono > 1.9 && mono < 0.9, "{wall} {mono}");
        let (wall, mono) = run(Skew { both: true, ..double }).unwrap();
        assert!(wall > 0.95 && (wall / mono - 1.0).abs() < 0.05, "{wall} {mono}");
    }
}
