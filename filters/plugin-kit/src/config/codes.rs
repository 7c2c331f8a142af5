//! The kinds of things that can be wrong with a configuration, or surprise.

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// It cannot be meant, or the proxy refuses it.
    Error,
    /// It may surprise.
    Warning,
}

impl Severity {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $severity:ident $code:ident,)*) => {
        /// What kind of thing was found. The name of a code is stable. Its doc comment is what
        /// `mesh-filters check --explain` prints, and what the table of codes in docs/check-and-explain.md says.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code {
            $($(#[doc = $doc])+ $code,)*
        }

        impl Code {
            /// Every code, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$code),*];

            /// How bad a finding of this kind is.
            pub fn severity(self) -> Severity {
                match self { $(Self::$code => Severity::$severity,)* }
            }

            fn variant(self) -> &'static str {
                match self { $(Self::$code => stringify!($code),)* }
            }

            /// What it means, and what to do about it.
            #[cfg(not(target_os = "wasi"))]
            pub fn explanation(self) -> String {
                let lines: &[&str] = match self { $(Self::$code => &[$($doc),+],)* };
                lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
            }
        }
    };
}

impl Code {
    /// The code as it is written: `unknown-field`.
    pub fn name(self) -> String {
        let mut name = String::new();
        for character in self.variant().chars() {
            if character.is_ascii_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.push(character.to_ascii_lowercase());
        }
        name
    }
}

codes! {
    /// The input of `mesh-filters check` is neither YAML nor JSON. Nothing in this file was checked.
    Error NotYaml,
    /// The pluginConfig is not the JSON object that a filter gets: it is broken, or it is a text, YAML or a
    /// wrapped message in the place of the object.
    Error NotJson,
    /// The filter has no such option. The message names the options that stand here, and the nearest name.
    Error UnknownField,
    /// An option that has no default is left out.
    Error MissingField,
    /// The value is of another kind than the option takes: a text in the place of a number, or one value in
    /// the place of a list.
    Error WrongType,
    /// The option takes one of a few names, and this is none of them.
    Error UnknownName,
    /// The list or the object has no entry. It could mean all or nothing. A template leaves it so where its
    /// values are missing. Leave the option out where nothing is demanded.
    Error EmptyList,
    /// The value is not one that the option can have, or it contradicts another option.
    Error InvalidValue,
    /// `mode: report` denies nothing: what would be denied is counted and logged. That is for a rollout, and
    /// should not be left on.
    Warning ReportMode,
    /// Tokens are accepted for so long after they have expired. The clocks of servers differ by seconds; more
    /// than five minutes hides a clock that is wrong. More than an hour is refused.
    Warning WideClockSkew,
    /// The plugin has an image of these filters, but nothing tells which filter it is. Set `pluginName`.
    Warning FilterUnknown,
    /// With failStrategy FAIL_OPEN a request passes without a check while the filter's VM is dead or its
    /// image cannot be fetched. Use FAIL_RELOAD, which answers 503 until another VM has started.
    Error FailOpen,
    /// mesh-filters holds the other filters. Where one of them runs on the same workload too, a request is
    /// checked and counted twice, and the second jwt-auth finds no token.
    Error JoinedAndSingle,
    /// Two plugins of one filter select the same workload. Of two jwt-auth the first removes the token, so
    /// that the second answers 401 to every request; of two rate-limit both count.
    Error SameFilterTwice,
    /// A limit counts by a claim, and its filter runs before jwt-auth on this workload, so that there is no
    /// claim yet. Let rate-limit run later: phase AUTHN for jwt-auth and AUTHZ or STATS for rate-limit, or a
    /// lower priority in the same phase.
    Error LimitBeforeToken,
    /// A limit or a tag asks for a claim that no jwt-auth on the workload publishes. Name the claim in
    /// `publishClaims` of jwt-auth.
    Error ClaimNotPublished,
    /// A WasmPlugin without `match` runs on requests that the workload sends, too: jwt-auth then asks for
    /// tokens on calls to other services. Say `match: [{ mode: SERVER }]`.
    Warning OutboundToo,
    /// The image is named by a tag alone, which can be moved. Set `sha256`, or an image with `@sha256:…`.
    Warning NoDigest,
    /// The proxy reaches a JWKS host through a cluster, which Istio makes of a Service or a ServiceEntry.
    /// None of the resources that were checked is for this host.
    Warning KeysUnreachable,
    /// A Service port whose name begins with no protocol, and which has no appProtocol, may be taken for TCP,
    /// where no HTTP filter runs. Name it `http`, `http-…`, `http2-…` or `grpc-…`.
    Warning PortWithoutProtocol,
}
