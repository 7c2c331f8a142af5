//! As much of the protobuf wire format as the arguments of Envoy's foreign functions need.

/// One field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message in order, or `None` where `ParseFromString` would fail.
pub(crate) fn fields(mut message: &[u8]) -> Option<Vec<(u64, Field<'_>)>> {
    let mut out = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let field = match key & 7 {
            0 => Field::Number(varint(&mut message)?),
            1 => Field::Bytes(take(&mut message, 8)?),
            2 => {
                let size = usize::try_from(varint(&mut message)?).ok()?;
                Field::Bytes(take(&mut message, size)?)
            }
            5 => Field::Bytes(take(&mut message, 4)?),
            _ => return None,
        };
        if key >> 3 == 0 {
            return None;
        }
        out.push((key >> 3, field));
    }
    Some(out)
}

/// The last value of a bytes or string field, empty if absent (proto3).
pub(crate) fn bytes<'a>(fields: &[(u64, Field<'a>)], number: u64) -> &'a [u8] {
    let found = fields.iter().rev().find_map(|(have, field)| match field {
        Field::Bytes(value) if *have == number => Some(*value),
        _ => None,
    });
    found.unwrap_or_default()
}

/// The last value of a number field, 0 if absent (proto3).
pub(crate) fn number(fields: &[(u64, Field<'_>)], number: u64) -> u64 {
    let found = fields.iter().rev().find_map(|(have, field)| match field {
        Field::Number(value) if *have == number => Some(*value),
        _ => None,
    });
    found.unwrap_or_default()
}

/// Appends a bytes or string field; proto3 leaves an empty one out.
pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u64, value: &[u8]) {
    if !value.is_empty() {
        put_varint(out, number << 3 | 2);
        put_varint(out, value.len() as u64);
        out.extend(value);
    }
}

/// Appends a bool field; proto3 leaves `false` out.
pub(crate) fn put_bool(out: &mut Vec<u8>, number: u64, value: bool) {
    if value {
        put_varint(out, number << 3);
        out.push(1);
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(message, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(message: &mut &'a [u8], size: usize) -> Option<&'a [u8]> {
    let (head, tail) = message.split_at_checked(size)?;
    *message = tail;
    Some(head)
}
