//! As much of the protobuf wire format as the host's foreign functions and CEL take.

/// Appends a field of bytes, text, or a message. `tag`: number and wire type, in one byte.
pub fn put_bytes(message: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    message.push(tag);
    let mut length = bytes.len();
    while length >= 0x80 {
        message.push(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
        length >>= 7;
    }
    message.push(u8::try_from(length).unwrap_or_default());
    message.extend_from_slice(bytes);
}
