//! Rows of accounts, written by hand: an entry may touch thousands, and most of applying it was writing them.
//!
//! The bytes are those that `AccountRow` and `SlotRow` have as protobuf: fields in order, zeros left out.

use super::accounts::Account;
use crate::slide::Slot;

const TEXT: u8 = 2;

/// The row of an account, by way of `scratch`, so that it is as long as it has to be.
pub(super) fn account_row(account: &Account, key: &str, scratch: &mut Vec<u8>) -> Vec<u8> {
    let rare = account.rare();
    scratch.clear();
    number(scratch, 1, account.rule.into());
    if !key.is_empty() {
        bytes(scratch, 2, key.as_bytes());
    }
    number(scratch, 3, account.epoch);
    number(scratch, 4, account.used);
    number(scratch, 5, account.held);
    number(scratch, 6, rare.overrun);
    number(scratch, 7, rare.central.into());
    number(scratch, 8, rare.generation.into());
    number(scratch, 9, account.ask);
    number(scratch, 10, rare.recall_until);
    for slot in &rare.slide.slots {
        slot_row(scratch, slot);
    }
    number(scratch, 12, rare.ask_at);
    far_number(scratch, 30, rare.made.into());
    far_number(scratch, 31, rare.kind as u64);
    far_number(scratch, 32, rare.window.0);
    far_number(scratch, 33, rare.window.1);
    far_number(scratch, 60, rare.billed);
    scratch.to_vec()
}

fn slot_row(row: &mut Vec<u8>, &Slot { at, used, held, overrun }: &Slot) {
    let begin = row.len();
    for (field, value) in (1..).zip([at, used, held, overrun]) {
        number(row, field, value);
    }
    // Its length goes before it, in one byte: four fields have at most 44.
    let length = row.len() - begin;
    row.extend_from_slice(&[11 << 3 | TEXT, 0]);
    row[begin..].rotate_right(2);
    row[begin + 1] = u8::try_from(length).unwrap_or(u8::MAX);
}

fn bytes(row: &mut Vec<u8>, field: u8, value: &[u8]) {
    row.push(field << 3 | TEXT);
    varint(row, value.len() as u64);
    row.extend_from_slice(value);
}

fn number(row: &mut Vec<u8>, field: u8, value: u64) {
    if value != 0 {
        row.push(field << 3);
        varint(row, value);
    }
}

/// Of a field from 16 on, whose number takes two bytes.
fn far_number(row: &mut Vec<u8>, field: u64, value: u64) {
    if value != 0 {
        varint(row, field << 3);
        varint(row, value);
    }
}

fn varint(row: &mut Vec<u8>, mut value: u64) {
    let (mut digits, mut length) = ([0; 10], 0);
    while value >= 0x80 {
        digits[length] = value.to_le_bytes()[0] | 0x80;
        value >>= 7;
        length += 1;
    }
    digits[length] = value.to_le_bytes()[0];
    row.extend_from_slice(&digits[..=length]);
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use prost::Message;
    use tollgate_proto::state::v1::{AccountRow, SlotRow};

    use super::{
        super::{
            accounts::{Kind, Rare},
            keys::Key,
        },
        *,
    };
    use crate::slide::Slide;

    fn figure() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), 0..300u64, any::<u64>()]
    }

    proptest! {
        #[test]
        fn a_row_is_what_protobuf_makes_of_it(
            rule in any::<u32>(), key in "\\PC{0,200}", of in vec(figure(), 11), generation in any::<u32>(),
            central in any::<bool>(), slots in vec((figure(), figure(), figure(), figure()), 0..4),
            made in any::<u32>(), kind in prop_oneof![Just(Kind::Own), Just(Kind::Late), Just(Kind::Shared)]
        ) {
            let mut account = Account::new(rule, of[0], Key::NONE);
            (account.used, account.held, account.ask) = (of[1], of[2], of[3]);
            let row = |&(at_us, used, held, overrun): &_| SlotRow { at_us, used, held, overrun };
            let expected = AccountRow {
                rule,
                key: key.clone(),
                epoch: of[0],
                used: of[1],
                held: of[2],
                overrun: of[4],
                central,
                generation,
                ask: of[3],
                recall_until_us: of[5],
                slots: slots.iter().map(row).collect(),
                ask_at_us: of[6],
                made,
                kind: kind as u32,
                window_start_us: of[8],
                window_end_us: of[9],
                billed: of[10],
            };
            let slot = |&(at, used, held, overrun): &_| Slot { at, used, held, overrun };
            let slide = Slide::of(slots.iter().map(slot).collect());
            let (overrun, recall_until, ask_at) = (of[4], of[5], of[6]);
            let (suspense, window, billed) = (of[7], (of[8], of[9]), of[10]);
            let rare =
                Rare { overrun, suspense, central, generation, ask_at, recall_until, slide, made, kind, window, billed };
            let account = account.with(rare);
            prop_assert_eq!(account_row(&account, &key, &mut vec![1, 2, 3]), expected.encode_to_vec());
        }
    }
}
