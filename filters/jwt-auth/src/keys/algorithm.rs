//! The signature algorithms of JWS (RFC 7518, RFC 8037).

use std::fmt;

macro_rules! algorithms {
    ($($name:ident),*) => {
        /// A signature algorithm of JWS. `none` is not among them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[allow(missing_docs)]
        pub enum Algorithm { $($name),* }

        impl Algorithm {
            /// Every algorithm that this filter knows.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The name that `alg` gives it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }
        }
    };
}

algorithms!(RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA, HS256, HS384, HS512);

impl Algorithm {
    /// The algorithms that a provider accepts unless it names others: those that Envoy checks natively.
    pub const DEFAULT: &[Self] = &[Self::RS256, Self::RS384, Self::RS512, Self::ES256, Self::ES384];

    /// Whether only the host can check it, since jwt-simple has no P-521.
    pub fn is_for_the_host_alone(self) -> bool {
        self == Self::ES512
    }

    /// The algorithm of that name. Names are case-sensitive, and `none` is not among them.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|algorithm| algorithm.name() == name).copied()
    }

    /// Whether the algorithm is a message authentication code, whose key is a secret.
    pub fn is_symmetric(self) -> bool {
        self.secret_length().is_some()
    }

    /// The least length of its secret in bytes, if it has one (RFC 7518 section 3.2).
    pub fn secret_length(self) -> Option<usize> {
        match self {
            Self::HS256 => Some(32),
            Self::HS384 => Some(48),
            Self::HS512 => Some(64),
            _ => None,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_checks_every_algorithm_but_es512() {
        let not_here: Vec<Algorithm> =
            Algorithm::ALL.iter().copied().filter(|algorithm| algorithm.is_for_the_host_alone()).collect();
        assert_eq!(not_here, [Algorithm::ES512]);
    }
}
