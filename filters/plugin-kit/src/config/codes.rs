//! The kinds of things that can be wrong with a configuration, or surprise.

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The proxy refuses the configuration, or it cannot be meant.
    Error,
    /// The proxy accepts the configuration, and its effect may surprise.
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
    /// A rule without a condition lets anyone make every request: the filter would check nothing. If that is
    /// meant, say `match: { any: true }`.
    Error OpenToAll,
    /// A rule without `match` is about all requests, so that no rule behind it is ever asked. It may stand
    /// last only. Give it a `match`, or move it behind the others.
    Error RuleForAll,
    /// The first rule that matches a request decides, and this rule matches all requests. The rules behind it
    /// never decide. Move it behind them.
    Warning CatchAllFirst,
    /// An earlier rule, or several earlier rules together, match every request that this rule matches, so that
    /// this rule never decides. Move it before them, or remove it.
    Warning HiddenRule,
    /// An earlier rule has the same `match`, so that this rule never decides. Put what both demand into one
    /// rule.
    Warning SameMatchTwice,
    /// Two rules have one name, under which metrics and logs do not tell them apart.
    Warning SameRuleName,
    /// The rule names some of the methods that change something (POST, PUT, PATCH, DELETE), and a request
    /// with another of them is decided by what demands less. Name this method too, or use `methodsExcept`.
    Warning MethodLeft,
    /// The name of the method is nearly that of a method of HTTP, so that it may be a mistake, and the rule
    /// matches no request. Correct the name. Methods of other specifications are taken as they are.
    Warning MethodUnusual,
    /// `/admin` is this path alone. What is below it (`/admin/users`) is decided by what demands less. Add
    /// `/admin/*`, which is also `/admin`.
    Warning PathsBelowLeft,
    /// A regular expression of `pathRegexes` must match the whole path: `^/admin` and `/admin` match `/admin`
    /// alone, and `admin` matches no path. Write `/admin/.*`, or use `paths`.
    Warning RegexIsWholePath,
    /// The segment is compared as it stands: `/users/:id` is no pattern here. Write `/users/{*}`.
    Warning SegmentAsWritten,
    /// No value can pass the test: `present: false` beside a value, or a value that must and must not be
    /// there.
    Error NeverHolds,
    /// The text is compared as it stands, with its `*`. There is no pattern here.
    Warning StarAsWritten,
    /// The `*` of the issuer stands for a whole host, so that the issuer may be anyone. Name the hosts that
    /// you trust: `https://*.example/`.
    Warning AnyIssuer,
    /// A provider takes its tokens from a header that the filter itself sets from another provider's token,
    /// and so removes from each request. Take the token from another header.
    Error TokenHeaderIsOutput,
    /// The filter removes a client's copies of the headers that it sets before rules look at the request, so
    /// that a test of such a header finds none. Test the claim in `require`.
    Warning TestOfOwnHeader,
    /// A place of tokens is for a rule that looks at no token: one with `allow: nobody` or `verify: never`. Name
    /// another rule, or let the rule look at tokens.
    Warning PlaceNotRead,
    /// Requests without a token are answered with 404, as if there were nothing, and `signIn` sends browsers to sign
    /// in for the same requests. Leave one of the two out.
    Warning HiddenAndShown,
    /// `protectedResource` names the resource that clients ask for tokens for, and a provider without `audiences`
    /// takes tokens that were issued for another resource. Name the resource in `audiences`.
    Warning ResourceWithoutAudience,
    /// With `verify: never` no token is looked at, so that `when` finds no claims. Use `verify: bestEffort`.
    Warning WhenWithoutClaims,
    /// `requests: 0` denies every request. If that is meant, say `burst: 0` beside it.
    Error DeniesAll,
    /// Another limit counts the same requests by the same key, admits no more at once and no more in the
    /// long run. This limit is never the one that denies. Give one of them another `match` or `key`, or
    /// remove it.
    Warning MootLimit,
    /// The limits have places for so many keys (`maxKeys`) that their state takes more memory than a native
    /// module keeps, 256 MiB. It refuses the configuration, and so the listener. The Wasm form has no bound,
    /// and takes memory of the proxy. Lower `maxKeys`.
    Warning LargeState,
    /// The source can never have a value when it is asked. What belongs to the response is not known when the
    /// request arrives, and an attribute that is a number or a time is no text.
    Error SourceWithoutValue,
    /// The expression names `response`, which has no value when the request arrives.
    Warning CelAsksResponse,
    /// The body has a name in braces that is not replaced. Correct the name, or leave the braces out.
    Warning UnknownPlaceholder,
    /// A limit or a tag asks for a claim, and this configuration has no `jwtAuth` that publishes it. Another
    /// plugin must do that, and run earlier.
    Warning ClaimWithoutJwtAuth,
    /// `mode: report` denies nothing: what would be denied is counted and logged. A limit with
    /// `enforcePercent` below 100 does so for the other keys. That is for a rollout, and should not be left
    /// on.
    Warning ReportMode,
    /// Tokens are accepted for so long after they have expired. The clocks of servers differ by seconds; more
    /// than five minutes hides a clock that is wrong. More than an hour is refused.
    Warning WideClockSkew,
    /// The plugin has an image of these filters, but nothing tells which filter it is. Set `pluginName`.
    Warning FilterUnknown,
    /// With `failStrategy: FAIL_OPEN` a request passes without a check while the filter's VM is dead or its
    /// image cannot be fetched. Use `FAIL_RELOAD`, which answers 503 until another VM has started.
    Error FailOpen,
    /// An `EnvoyFilter` fetches the native module (`module.remote`). Where that fails, Envoy serves requests
    /// without the filter, and every request passes unchecked. Load a file of the proxy (`module.local`), or
    /// say `nack_on_cache_miss: true`, with which Envoy refuses the configuration until it has the module.
    Error ModuleFailsOpen,
    /// A secret stands in the pluginConfig, which everybody sees who may read the resource or the proxy's
    /// `config_dump`. It belongs into a variable of `vmConfig.env` with `valueFrom: HOST`, which the pods get
    /// from a Secret. A secret that was applied is no secret any more: make a new one.
    Error SecretInConfig,
    /// mesh-filters holds the other filters. Where jwt-auth or trace-tags runs on the same workload too, a
    /// request is checked twice, and the second jwt-auth finds no token.
    Error JoinedAndSingle,
    /// Two plugins of one filter select the same workload. Of two jwt-auth the first removes the token, so
    /// that the second answers 401 to every request.
    Error SameFilterTwice,
    /// Two plugins of rate-limit select the same workload and have a limit of one name. Each charges a request,
    /// and metrics and logs do not tell the limits apart. Select other pods, or give one limit another name.
    Error SameLimitTwice,
    /// A plugin selects some of the pods of a service, by a label beside the one that names the service, and no
    /// plugin of the same filter selects these pods: their requests pass unchecked. Give the pods the label, or
    /// add a plugin that selects them.
    Warning PodsWithoutFilter,
    /// A limit counts by a claim, and its filter runs before jwt-auth on this workload, so that there is no
    /// claim yet. Let rate-limit run later: phase AUTHN for jwt-auth and AUTHZ or STATS for rate-limit, or a
    /// lower priority in the same phase. A priority that is not set is the lowest.
    Error LimitBeforeToken,
    /// A limit or a tag asks for a claim that no jwt-auth on the workload publishes. Name the claim in
    /// `publishClaims` of jwt-auth.
    Error ClaimNotPublished,
    /// A `WasmPlugin` without `match` runs on requests that the workload sends, too: jwt-auth then asks for
    /// tokens on calls to other services. Say `match: [{ mode: SERVER }]`. In an `EnvoyFilter`, `match` has
    /// `context: SIDECAR_INBOUND`.
    Warning OutboundToo,
    /// The image is named by a tag alone, which can be moved. Set `sha256`, or an image with `@sha256:…`.
    Warning NoDigest,
    /// The proxy reaches the host of keys or of metadata through a cluster, which Istio makes of a Service or a
    /// `ServiceEntry`. None of the resources that were checked is for this host, or it has other ports.
    Warning KeysUnreachable,
    /// The proxy reaches a list of revoked tokens or a rate limit service through a cluster, which Istio makes of a
    /// Service or a `ServiceEntry`. None of the resources that were checked is for this host, or it has other
    /// ports.
    Warning ClusterUnreachable,
    /// A Service port whose name begins with no protocol, and which has no `appProtocol`, may be taken for TCP,
    /// where no HTTP filter runs. Name it `http`, `http-…`, `http2-…` or `grpc-…`.
    Warning PortWithoutProtocol,
}
