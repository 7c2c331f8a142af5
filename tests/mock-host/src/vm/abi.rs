//! The numbers of Proxy-Wasm ABI 0.2.1 and its serialised form of header maps.

/// What a host call answers (`WasmResult` in proxy-wasm-cpp-host's `proxy_wasm_common.h`). A fault may answer
/// any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(
    /// The number that the guest sees.
    pub u32,
);

#[allow(missing_docs, reason = "the names are the specification's")]
impl Status {
    pub const OK: Self = Self(0);
    pub const NOT_FOUND: Self = Self(1);
    pub const BAD_ARGUMENT: Self = Self(2);
    pub const SERIALIZATION_FAILURE: Self = Self(3);
    pub const PARSE_FAILURE: Self = Self(4);
    pub const BAD_EXPRESSION: Self = Self(5);
    pub const INVALID_MEMORY_ACCESS: Self = Self(6);
    pub const EMPTY: Self = Self(7);
    pub const CAS_MISMATCH: Self = Self(8);
    pub const RESULT_MISMATCH: Self = Self(9);
    pub const INTERNAL_FAILURE: Self = Self(10);
    pub const BROKEN_CONNECTION: Self = Self(11);
    pub const UNIMPLEMENTED: Self = Self(12);

    /// Every status that the ABI names, for tests that try them all.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=12).map(Self)
    }
}

/// `WasmHeaderMapType`; other numbers are `BAD_ARGUMENT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MapType {
    RequestHeaders,
    RequestTrailers,
    ResponseHeaders,
    ResponseTrailers,
    GrpcReceiveInitialMetadata,
    GrpcReceiveTrailingMetadata,
    HttpCallResponseHeaders,
    HttpCallResponseTrailers,
}

impl MapType {
    pub(crate) fn new(number: u32) -> Result<Self, Status> {
        Ok(match number {
            0 => Self::RequestHeaders,
            1 => Self::RequestTrailers,
            2 => Self::ResponseHeaders,
            3 => Self::ResponseTrailers,
            4 => Self::GrpcReceiveInitialMetadata,
            5 => Self::GrpcReceiveTrailingMetadata,
            6 => Self::HttpCallResponseHeaders,
            7 => Self::HttpCallResponseTrailers,
            _ => return Err(Status::BAD_ARGUMENT),
        })
    }
}

/// `WasmStreamType`: only the two of HTTP occur here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Request,
    Response,
}

/// Pairs in the form of `PairsUtil::marshalPairs` (proxy-wasm-cpp-host `src/pairs_util.cc`): count, the sizes
/// of each name and value, then the names and values, each ended by a zero byte.
pub(crate) fn marshal_pairs<N: AsRef<[u8]>, V: AsRef<[u8]>>(pairs: &[(N, V)]) -> Vec<u8> {
    let mut out = word(pairs.len());
    for (name, value) in pairs {
        out.extend(word(name.as_ref().len()));
        out.extend(word(value.as_ref().len()));
    }
    for (name, value) in pairs {
        out.extend(name.as_ref());
        out.push(0);
        out.extend(value.as_ref());
        out.push(0);
    }
    out
}

fn word(number: usize) -> Vec<u8> {
    u32::try_from(number).expect("fits a 32-bit guest").to_le_bytes().to_vec()
}

/// `PairsUtil::toPairs`: anything malformed, or left over at the end, is an empty map, not an error.
pub(crate) fn to_pairs(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    parse_pairs(bytes).unwrap_or_default()
}

fn parse_pairs(bytes: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    /// `PROXY_WASM_HOST_PAIRS_MAX_COUNT` and `_MAX_BYTES` in `include/proxy-wasm/limits.h`.
    const MAX_COUNT: usize = 1024;
    const MAX_BYTES: usize = 1024 * 1024;
    if bytes.len() > MAX_BYTES {
        return None;
    }
    let mut rest = bytes;
    let count = take_word(&mut rest)?;
    if count > MAX_COUNT {
        return None;
    }
    let sizes = (0..count)
        .map(|_| Some((take_word(&mut rest)?, take_word(&mut rest)?)))
        .collect::<Option<Vec<_>>>()?;
    let pairs = sizes
        .into_iter()
        .map(|(name, value)| {
            let name = String::from_utf8_lossy(take_string(&mut rest, name)?).into_owned();
            Some((name, take_string(&mut rest, value)?.to_vec()))
        })
        .collect::<Option<Vec<_>>>()?;
    rest.is_empty().then_some(pairs)
}

fn take_word(rest: &mut &[u8]) -> Option<usize> {
    let (head, tail) = rest.split_first_chunk::<4>()?;
    *rest = tail;
    usize::try_from(u32::from_le_bytes(*head)).ok()
}

fn take_string<'a>(rest: &mut &'a [u8], size: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(size)?;
    let (end, tail) = tail.split_first()?;
    *rest = tail;
    (*end == 0).then_some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_survive_the_round_trip() {
        let pairs = [("a", "1"), ("a", ""), ("", "2")];
        let read = to_pairs(&marshal_pairs(&pairs));
        let want: Vec<_> = pairs.iter().map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec())).collect();
        assert_eq!(read, want);
    }

    #[test]
    fn malformed_pairs_are_an_empty_map() {
        let good = marshal_pairs(&[("name", "value")]);
        for cut in 0..good.len() {
            assert_eq!(to_pairs(&good[..cut]), [], "cut at {cut}");
        }
        let mut long = good.clone();
        long.push(0);
        assert_eq!(to_pairs(&long), []);
        let mut unterminated = good;
        let last = unterminated.len() - 1;
        unterminated[last] = b'x';
        assert_eq!(to_pairs(&unterminated), []);
    }
}
