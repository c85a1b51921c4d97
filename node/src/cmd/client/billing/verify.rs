//! `tollgate billing verify`: a statement or an export, checked without anybody's help.

use std::{fs::File, path::PathBuf};

use anyhow::{Context, anyhow, bail};
use clap::Args;
use serde_json::{Value, json};
use tollgate_billing::statement::{Checked, Fingerprint, PublicKey, Statement, verify};

use crate::cmd::client::{
    failure::Usage,
    output::{ListFormat, write_json, write_table},
    table::Table,
};

/// A key is some hundred bytes.
const MAX_KEY_BYTES: u64 = 4096;

#[derive(Args, Debug)]
pub(super) struct VerifyArgs {
    /// As `billing statement` or `billing export --schema events` wrote it.
    file: PathBuf,
    /// The key that must have signed it: its fingerprint, or a file with what `billing key` says.
    #[arg(long, value_name = "FINGERPRINT|FILE")]
    key: Option<String>,
    /// How to print it.
    #[arg(short, long, value_enum, default_value = "table")]
    output: ListFormat,
}

pub(super) fn run(args: &VerifyArgs) -> anyhow::Result<()> {
    let believed = args.key.as_deref().map(believed).transpose()?;
    let path = args.file.display();
    let file = File::open(&args.file).with_context(|| format!("can't read {path}"))?;
    let checked = verify(file, believed).map_err(|error| anyhow!(error).context(format!("{path}")))?;
    let rows = rows(&checked);
    match args.output {
        ListFormat::Json => write_json(&Value::Array(rows))?,
        ListFormat::Table => {
            let columns: &[&str] = match checked.statement {
                Some(_) => &["tenant", "period", "ok", "rows", "amount", "currency", "key"],
                None => &["ok", "rows", "cost", "currency"],
            };
            write_table(&Table::of(columns, &rows))?;
        }
    }
    match (&checked.statement, believed) {
        (Some(_), Some(_)) => {}
        (Some(_), None) => anstream::eprintln!(
            "tollgate: signed by the key that the file names: give --key what the operator has told you of it"
        ),
        (None, _) => anstream::eprintln!(
            "tollgate: a plain export is not signed: each row is what its event_id says, but that none is missing, \
             and who wrote it, only a statement shows"
        ),
    }
    Ok(())
}

fn rows(checked: &Checked) -> Vec<Value> {
    let row = |currency: Value, amounts: Value| {
        let mut row = match &checked.statement {
            Some((statement, key)) => signed(statement, key),
            None => json!({"signed": false}),
        };
        row["ok"] = true.into();
        row["rows"] = checked.rows.into();
        row["currency"] = currency;
        if let (Value::Object(row), Value::Object(amounts)) = (&mut row, amounts) {
            row.extend(amounts);
        }
        row
    };
    let rows: Vec<Value> = match &checked.statement {
        Some((statement, _)) => statement
            .totals
            .iter()
            .map(|it| {
                let amounts = json!({"exact": it.exact, "rounding": it.rounding, "amount": it.amount});
                row(it.currency.clone().into(), amounts)
            })
            .collect(),
        None => checked
            .costs
            .iter()
            .map(|(currency, cost)| row(currency.to_string().into(), json!({"cost": cost.to_string()})))
            .collect(),
    };
    if rows.is_empty() { vec![row(Value::Null, json!({}))] } else { rows }
}

fn signed(statement: &Statement, key: &PublicKey) -> Value {
    json!({
        "signed": true,
        "tenant": statement.tenant,
        "period": statement.period,
        "closedAt": statement.closed_at,
        "merkleRoot": statement.merkle_root,
        "key": key.fingerprint().to_string(),
    })
}

/// A fingerprint, or a file that has one, or a public key: the first that stands in it.
fn believed(text: &str) -> anyhow::Result<Fingerprint> {
    if let Some(fingerprint) = Fingerprint::parse(text) {
        return Ok(fingerprint);
    }
    let read = || -> std::io::Result<String> {
        let mut said = String::new();
        std::io::Read::read_to_string(&mut std::io::Read::take(File::open(text)?, MAX_KEY_BYTES), &mut said)?;
        Ok(said)
    };
    let said = read()
        .map_err(|error| Usage(format!("--key: `{text}` is neither 64 hexadecimal digits nor a file: {error}")))?;
    let digits = |word: &&str| word.len() == 64;
    let words: Vec<&str> = said.split(|it: char| !it.is_ascii_hexdigit()).filter(digits).collect();
    match words[..] {
        // `billing key` tells both: they must be of each other.
        [one] => Fingerprint::parse(one).context("--key: the file has no fingerprint"),
        [fingerprint, key] => {
            let of = PublicKey::parse(key).map(|key| key.fingerprint());
            match Fingerprint::parse(fingerprint).filter(|it| Some(*it) == of) {
                Some(fingerprint) => Ok(fingerprint),
                None => bail!("--key: in {text} the fingerprint is not that of the key"),
            }
        }
        _ => bail!("--key: {text} has no fingerprint: write what `tollgate billing key` says to it"),
    }
}
