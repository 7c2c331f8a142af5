//! What `check` finds.

use std::ops::Range;

use clap::ValueEnum;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Severity {
    /// The proxy refuses it, or it cannot be meant.
    Error,
    /// It may surprise.
    Warning,
}

impl Severity {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// Something that was found.
pub(crate) struct Finding {
    /// What kind of thing.
    pub(crate) code: Code,
    /// The position of its source.
    pub(crate) source: usize,
    /// Its place there, in bytes.
    pub(crate) span: Range<usize>,
    /// The resource that it is in, and the JSON path within its pluginConfig where it is about that.
    pub(crate) place: String,
    /// What was found, and what was expected.
    pub(crate) message: String,
}

/// The kinds of findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Code {
    NotYaml,
    ConfigRefused,
    FilterUnknown,
    FailOpen,
    JoinedAndSingle,
    SameFilterTwice,
    LimitBeforeToken,
    ClaimNotPublished,
    OutboundToo,
    NoDigest,
    KeysUnreachable,
    PortWithoutProtocol,
}

impl Code {
    /// The code as it is written.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// How bad it is.
    pub(crate) fn severity(self) -> Severity {
        match self {
            Self::NotYaml
            | Self::ConfigRefused
            | Self::FailOpen
            | Self::JoinedAndSingle
            | Self::SameFilterTwice
            | Self::LimitBeforeToken
            | Self::ClaimNotPublished => Severity::Error,
            Self::FilterUnknown
            | Self::OutboundToo
            | Self::NoDigest
            | Self::KeysUnreachable
            | Self::PortWithoutProtocol => Severity::Warning,
        }
    }

    /// What it means, and what to do about it.
    pub(crate) fn explanation(self) -> &'static str {
        match self {
            Self::NotYaml => "The input is neither YAML nor JSON. Nothing in this file was checked.",
            Self::ConfigRefused => {
                "The filter refuses this pluginConfig. Envoy keeps the last configuration that was good; a pod that starts \
                 anew answers every request with an error."
            }
            Self::FilterUnknown => {
                "The plugin has an image of these filters, but nothing tells which filter it is. Set `pluginName`."
            }
            Self::FailOpen => {
                "With failStrategy FAIL_OPEN a request passes without a check while the filter's VM is dead or its image \
                 cannot be fetched. Use FAIL_RELOAD, which answers 503 until another VM has started."
            }
            Self::JoinedAndSingle => {
                "mesh-filters holds the other filters. Where one of them runs on the same workload too, a request is checked \
                 and counted twice, and the second jwt-auth finds no token."
            }
            Self::SameFilterTwice => {
                "Two plugins of one filter select the same workload. Of two jwt-auth the first removes the token, so that the \
                 second answers 401 to every request; of two rate-limit both count."
            }
            Self::LimitBeforeToken => {
                "A limit counts by a claim, and its filter runs before jwt-auth on this workload, so that there is no claim \
                 yet. Let rate-limit run later: phase AUTHN for jwt-auth and AUTHZ or STATS for rate-limit, or a lower \
                 priority in the same phase."
            }
            Self::ClaimNotPublished => {
                "A limit or a tag asks for a claim that no jwt-auth on the workload publishes. Name the claim in \
                 `publishClaims` of jwt-auth."
            }
            Self::OutboundToo => {
                "A WasmPlugin without `match` runs on requests that the workload sends, too: jwt-auth then asks for tokens on \
                 calls to other services. Say `match: [{ mode: SERVER }]`."
            }
            Self::NoDigest => {
                "The image is named by a tag alone, which can be moved. Set `sha256`, or an image with `@sha256:…`."
            }
            Self::KeysUnreachable => {
                "The proxy reaches a JWKS host through a cluster, which Istio makes of a Service or a ServiceEntry. None of \
                 the resources that were checked is for this host."
            }
            Self::PortWithoutProtocol => {
                "A Service port whose name begins with no protocol, and which has no appProtocol, may be taken for TCP, where \
                 no HTTP filter runs. Name it `http`, `http-…`, `http2-…` or `grpc-…`."
            }
        }
    }
}
