//! What answers to questions after an endpoint's health add up to.

use tollgate_model::HealthCheck;

/// The answers of one endpoint so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Checks {
    /// None before the first answer, which alone decides: there is nothing that it could be an exception of.
    well: Option<bool>,
    /// Answers in a row that say otherwise.
    against: u32,
}

impl Checks {
    /// One that nobody asked yet is taken for well.
    pub(crate) fn is_well(&self) -> bool {
        self.well != Some(false)
    }

    /// One more answer. Whether it changed anything.
    pub(crate) fn note(&mut self, is_good: bool, terms: &HealthCheck) -> bool {
        let before = self.is_well();
        match self.well {
            Some(well) if well == is_good => self.against = 0,
            None => self.well = Some(is_good),
            Some(well) => {
                self.against += 1;
                let enough = if well { terms.unhealthy_after } else { terms.healthy_after };
                if self.against >= enough {
                    *self = Self { well: Some(is_good), against: 0 };
                }
            }
        }
        before != self.is_well()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_few_answers_in_a_row_change_what_is_thought_and_the_first_alone_does() {
        let second = Duration::from_secs(1);
        let terms = HealthCheck {
            question: tollgate_model::Question::Tcp,
            interval: second,
            timeout: second,
            unhealthy_after: 3,
            healthy_after: 2,
        };
        let mut checks = Checks::default();
        assert!(checks.is_well());
        let mut after = |answers: &[bool]| {
            let mut changes = 0;
            answers.iter().for_each(|&answer| changes += u32::from(checks.note(answer, &terms)));
            (checks.is_well(), changes)
        };
        assert_eq!(after(&[false]), (false, 1), "nothing was known before");
        assert_eq!(after(&[true, false, true]), (false, 0));
        assert_eq!(after(&[true]), (true, 1));
        assert_eq!(after(&[false, false, true, false, false]), (true, 0), "two in a row are not three");
        assert_eq!(after(&[false]), (false, 1));
    }
}
