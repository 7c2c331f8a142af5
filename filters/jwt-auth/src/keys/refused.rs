//! Keys that are not used, and why.

/// The most keys of a set that are used.
pub const MOST_KEYS: usize = 100;

/// Why a key of a set is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The key is not a JSON object.
    #[error("not an object")]
    NotAnObject,
    /// A member is missing or not a string.
    #[error("`{0}` is missing or not a string")]
    Member(&'static str),
    /// A member is not base64url.
    #[error("`{0}` is not base64url")]
    Encoding(&'static str),
    /// The kind of key is not supported.
    #[error("its `kty` is not supported; expected `RSA`, `EC` or `OKP`")]
    KeyType,
    /// The key is a secret in a public set.
    #[error("a symmetric key in a set that anyone can read")]
    Symmetric,
    /// The key is a private key in a public set.
    #[error("a private key in a set that anyone can read")]
    Private,
    /// The curve is not supported.
    #[error("its `crv` is not supported; expected `P-256`, `P-384`, `P-521` or `Ed25519`")]
    Curve,
    /// `use` is not `sig`, or `key_ops` lacks `verify`.
    #[error("not meant to check signatures")]
    Purpose,
    /// `alg` is not supported, or is for another kind of key.
    #[error("its `alg` does not fit the key")]
    Algorithm,
    /// The RSA modulus has this many bits.
    #[error("RSA with {0} bits; expected 2048 to 4096")]
    RsaSize(usize),
    /// The RSA exponent is not 65537.
    #[error("RSA with an exponent other than 65537")]
    RsaExponent,
    /// The RSA modulus is even, or the point is not on the curve or of small order.
    #[error("it is not a valid key of its kind")]
    Invalid,
    /// The text is not one PEM block of a public key or a certificate.
    #[error("not PEM of a public key or a certificate")]
    Pem,
    /// The bytes are not a certificate.
    #[error("not a certificate (X.509)")]
    Certificate,
    /// The kind of key is not supported, or the bytes are not a key.
    #[error("its algorithm is not supported; expected RSA, P-256, P-384, P-521 or Ed25519")]
    Unsupported,
    /// The key comes after [`MOST_KEYS`] others.
    #[error("more than {MOST_KEYS} keys")]
    TooMany,
}
