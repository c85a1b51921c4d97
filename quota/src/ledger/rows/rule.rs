//! A limit's rule as a row, with the roster of its window, and a change of how it counts that is not in effect yet.

use prost::Message;
use tollgate_model::{Algorithm, KeyPart, LogIndex, Name, TimeZone, Unit, Window};
use tollgate_proto::state::v1::{ChangingRow, MemberRow, NextWindowRow, RosterRow, RuleRow};

use super::RestoreError;
use crate::{
    Rule,
    ledger::{
        Unprotected,
        change::Changing,
        rules::{Before, RuleState},
        standing::{MAX_MEMBERS, Member, NextWindow, Roster, Stand},
    },
};

pub(in crate::ledger) fn rule_row(state: &RuleState) -> Vec<u8> {
    let rule = &state.rule;
    RuleRow {
        limit: rule.limit.to_string(),
        version: rule.version.0,
        since: state.since,
        unit: rule.unit.tag(),
        per: rule.per.iter().map(ToString::to_string).collect(),
        capacity: rule.capacity,
        window: rule.window.as_str().into(),
        time_zone: rule.time_zone.name().into(),
        window_start_us: state.window_start,
        window_end_us: state.window_end,
        epoch: state.epoch,
        deleted_at: state.deleted_at,
        algorithm: rule.algorithm.as_str().into(),
        shadow: rule.shadow,
        mode_since: if state.mode_since == state.since { 0 } else { state.mode_since },
        lowered_until_us: state.lowered_until,
        unprotected_requests: state.unprotected.requests,
        unprotected_units: state.unprotected.units,
        roster: roster_row(&state.roster),
        next: state.next.as_deref().map(|next| NextWindowRow {
            epoch: next.epoch,
            start_us: next.start,
            end_us: next.end,
            roster: roster_row(&next.roster),
        }),
        before_units: state.before.map_or(0, |before| before.units),
        before_at_us: state.before.map_or(0, |before| before.at),
        before_until_us: state.before.map_or(0, |before| before.until),
        apart: rule.apart,
        parted: state.parted,
        changing: state.changing.as_deref().map(changing_row),
    }
    .encode_to_vec()
}

fn roster_row(roster: &Roster) -> Option<RosterRow> {
    let row = |it: &Member| MemberRow { node: it.node, incarnation: it.incarnation, stand: it.stand as u32 };
    let members: Vec<MemberRow> = roster.members.iter().map(row).collect();
    (!members.is_empty()).then_some(RosterRow { share: roster.share, members, shut: roster.shut })
}

fn roster(row: Option<RosterRow>) -> Result<Roster, String> {
    let Some(row) = row else { return Ok(Roster::default()) };
    if row.members.len() > MAX_MEMBERS {
        return Err("a roster has too many members".to_owned());
    }
    let member = |it: MemberRow| {
        let stand = [Stand::Active, Stand::Suspense, Stand::Kept, Stand::Returned].into_iter().nth(it.stand as usize);
        let stand = stand.ok_or("a member of a roster stands nowhere")?;
        Ok(Member { node: it.node, incarnation: it.incarnation, stand })
    };
    let members = row.members.into_iter().map(member).collect::<Result<_, String>>()?;
    Ok(Roster { share: row.share, members, shut: row.shut })
}

fn next_window(row: NextWindowRow) -> Result<Box<NextWindow>, String> {
    let roster = roster(row.roster)?;
    Ok(Box::new(NextWindow { epoch: row.epoch, start: row.start_us, end: row.end_us, roster }))
}

pub(super) fn rule_state(key: &[u8], row: RuleRow) -> Result<RuleState, RestoreError> {
    let state = || -> Result<RuleState, String> {
        let state = RuleState {
            rule: Rule {
                limit: Name::new(&row.limit),
                version: LogIndex(row.version),
                unit: Unit::from_tag(&row.unit).ok_or_else(|| format!("unknown unit `{}`", row.unit))?,
                per: row.per.iter().map(|part| KeyPart::parse(part)).collect::<Result<_, _>>()?,
                capacity: row.capacity,
                window: Window::parse(&row.window)?,
                algorithm: algorithm(&row.algorithm)?,
                time_zone: TimeZone::parse(&row.time_zone)?,
                apart: row.apart,
                shadow: row.shadow,
            },
            since: row.since,
            mode_since: if row.mode_since == 0 { row.since } else { row.mode_since },
            window_start: row.window_start_us,
            window_end: row.window_end_us,
            epoch: row.epoch,
            deleted_at: row.deleted_at,
            lowered_until: row.lowered_until_us,
            unprotected: Unprotected { requests: row.unprotected_requests, units: row.unprotected_units },
            roster: roster(row.roster)?,
            next: row.next.map(next_window).transpose()?,
            before: (row.before_units > 0).then_some(Before {
                units: row.before_units,
                at: row.before_at_us,
                until: row.before_until_us,
            }),
            parted: row.parted,
            changing: None,
        };
        let changing = row.changing.map(|row| changing(&state.rule, row)).transpose()?;
        Ok(RuleState { changing, ..state })
    };
    state().map_err(|why| RestoreError::Value { key: key.to_vec(), source: why.into() })
}

fn algorithm(name: &str) -> Result<Algorithm, String> {
    if name.is_empty() { Ok(Algorithm::Fixed) } else { named(Algorithm::ALL, Algorithm::as_str, name) }
}

fn changing_row(changing: &Changing) -> ChangingRow {
    let told = |(node, incarnation): &(u64, u64)| MemberRow { node: *node, incarnation: *incarnation, stand: 0 };
    ChangingRow {
        version: changing.version,
        window: changing.rule.window.as_str().into(),
        algorithm: changing.rule.algorithm.as_str().into(),
        time_zone: changing.rule.time_zone.name().into(),
        apart: changing.rule.apart,
        until_us: changing.until,
        latest_us: changing.latest,
        told: changing.told.iter().map(told).collect(),
    }
}

fn changing(rule: &Rule, row: ChangingRow) -> Result<Box<Changing>, String> {
    let rule = Rule {
        window: Window::parse(&row.window)?,
        algorithm: algorithm(&row.algorithm)?,
        time_zone: TimeZone::parse(&row.time_zone)?,
        apart: row.apart,
        ..rule.clone()
    };
    let told = row.told.into_iter().map(|it| (it.node, it.incarnation)).collect();
    Ok(Box::new(Changing { rule, version: row.version, until: row.until_us, latest: row.latest_us, told }))
}

fn named<T: Copy, const N: usize>(all: [T; N], name: fn(T) -> &'static str, text: &str) -> Result<T, String> {
    all.into_iter().find(|it| name(*it) == text).ok_or_else(|| format!("unknown word `{text}`"))
}
