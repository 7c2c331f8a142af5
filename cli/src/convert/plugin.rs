//! The plugin of a group of workloads, and what stays of their policies.

use std::collections::{BTreeMap, BTreeSet};

use mesh_filters_cli::filters;
use serde_json::Value;

use super::authentication::{Issuer, Keys, is_in_cluster};
use super::cells::{self, Product, Rule, Stop};
use super::pattern::{Host, Path};
use super::policy::{Action, Policy, Way};
use super::token::{Conjunction, Demand, demand, require};
use super::yaml::Yaml;
use super::{Authentication, Convert, Group, Input, Made, Mode, titles};
use crate::resource::Resource;

/// A way in which a policy can match, and which policy.
struct Of<'a> {
    policy: &'a Policy<'a>,
    way: Way,
}

/// The documents for a group: what the fetch of keys needs, the plugin, and in the final form what stays of the policies.
///
/// # Errors
/// No plugin decides the same, and why.
pub(super) fn documents<'a>(
    group: &'a Group<'a>,
    input: &Input<'a>,
    arguments: &Convert,
    made: &mut Made,
) -> Result<(), String> {
    let issuers = group.issuers()?;
    refuse_what_needs_metadata(group, input)?;
    let names: Vec<&str> = issuers.iter().map(|issuer| issuer.issuer).collect();
    let ways = ways(group, &names)?;
    let allows: Vec<&&Policy<'_>> =
        group.policies.iter().filter(|policy| policy.action == Action::Allow).collect();
    // Where nothing but tokens and requests counts, jwt-auth decides alone.
    let decides_alone = allows.iter().all(|policy| policy.scope == group.scope)
        && ways.iter().filter(|of| of.policy.action == Action::Allow).all(|of| of.way.other.is_empty());
    let products: Vec<&Product> = ways.iter().map(|of| &of.way.product).collect();
    let decide = |within: &BTreeSet<usize>| decided(&ways, within, !allows.is_empty(), decides_alone);
    let rules = cells::rules(&products, &decide).map_err(|stop| stopped(&stop, &ways, group))?;
    let config = config(group, &issuers, &ways, &rules, !decides_alone, arguments.mode)?;
    let name = unique(&format!("jwt-auth-{}", group.scope.name()), &group.scope.namespace, &mut made.names);
    let old =
        titles(group.authentications.iter().map(|one| one.resource).chain(
            group.policies.iter().filter(|policy| policy.is_of_tokens()).map(|policy| policy.resource),
        ));
    let (mut head, mut stay) = (Vec::new(), Vec::new());
    match arguments.mode {
        Mode::Report => head.push(format!(
            "For {old}, which stay as they are. This plugin reports what it would refuse, and refuses nothing."
        )),
        Mode::Beside => head.push(format!("For {old}, which stay as they are: both decide.")),
        Mode::Enforce => {
            stay = remaining(group, &ways, decides_alone, &name);
            head = steps(group, &old, decides_alone, !stay.is_empty());
        }
    }
    if group.scope.are_all() {
        head.push(
            "A gateway has no inbound side, so that this plugin does not run on it, and without the old resources it checks no token. \
             For a gateway, write a RequestAuthentication with its selector or targetRefs, and convert that first."
                .to_owned(),
        );
    }
    let plugin = wasm_plugin(group, arguments, &name, config);
    for keys in issuers.iter().filter_map(Issuer::keys) {
        made.plugins.extend(external(&keys, group, input, &mut made.fetched));
    }
    made.plugins.push(commented(&head, &plugin));
    made.policies.extend(stay);
    Ok(())
}

/// A document with comments above it.
fn commented(comments: &[String], document: &Yaml) -> String {
    let lines = comments.iter().flat_map(|text| super::yaml::wrapped(text, 108));
    let comment: String = lines.flat_map(|line| ["# ".to_owned(), line, "\n".to_owned()]).collect();
    comment + &document.document()
}

fn refuse_what_needs_metadata(group: &Group<'_>, input: &Input<'_>) -> Result<(), String> {
    let first = group.authentications.first().map(|one| one.resource.title()).unwrap_or_default();
    if let Some(policy) =
        group.policies.iter().find(|policy| policy.action == Action::Other && policy.is_of_tokens())
    {
        return Err(format!(
            "{} tests tokens and is a trial, or has an action other than ALLOW and DENY, which jwt-auth has not. It needs {first}, which \
             must stay.",
            policy.resource.title()
        ));
    }
    let routes = group.scope.are_gateways() || group.scope.are_all();
    if let Some(routed) = input.routed.iter().find(|_| routes) {
        return Err(format!(
            "{} routes by claims (`@request.auth.claims`), which it has from {first} alone",
            routed.title()
        ));
    }
    Ok(())
}

fn ways<'a>(group: &Group<'a>, issuers: &[&str]) -> Result<Vec<Of<'a>>, String> {
    let mut found = Vec::new();
    for policy in &group.policies {
        let of_it = match policy.action {
            Action::Other => continue,
            Action::Allow | Action::Deny => {
                policy.ways(issuers).map_err(|why| format!("{}: {why}", policy.resource.title()))?
            }
        };
        for way in of_it {
            // A rule that denies and says nothing of tokens stays where it is.
            if policy.action == Action::Deny && way.token.is_empty() {
                continue;
            }
            if policy.action == Action::Deny && !way.other.is_empty() {
                return Err(format!(
                    "{} refuses requests by their tokens and by what jwt-auth does not look at ({}) at once, so that neither it nor \
                     jwt-auth could decide alone",
                    policy.resource.title(),
                    way.other.iter().cloned().collect::<Vec<_>>().join(", ")
                ));
            }
            found.push(Of { policy, way });
        }
    }
    Ok(found)
}

/// What requests need that match in these ways.
fn decided(
    ways: &[Of<'_>],
    within: &BTreeSet<usize>,
    has_allow: bool,
    decides_alone: bool,
) -> Result<Demand, String> {
    let here = |action: Action| within.iter().map(|n| &ways[*n]).filter(move |of| of.policy.action == action);
    let denied: Vec<&Conjunction> = here(Action::Deny).map(|of| &of.way.token).collect();
    let allowed: Vec<&Way> = here(Action::Allow).map(|of| &of.way).collect();
    let anything = Conjunction::new();
    if !has_allow {
        return demand(&[&anything], &denied);
    }
    if allowed.is_empty() {
        // The policies that stay refuse the request, or nobody does.
        return Ok(if decides_alone { Demand::Nobody } else { Demand::Anyone });
    }
    // The policies that stay ask for one of the other conditions, and jwt-auth for one of the tokens. Both together must be a way.
    for one in &allowed {
        for two in &allowed {
            let covered =
                allowed.iter().any(|way| way.other.is_subset(&one.other) && way.token.is_subset(&two.token));
            if !covered {
                return Err("they ask for a token or for something else, such as a principal".to_owned());
            }
        }
    }
    let tokens: Vec<&Conjunction> = allowed.iter().map(|way| &way.token).collect();
    demand(&tokens, &denied)
}

/// Why there is no list, as a sentence.
fn stopped(stop: &Stop, ways: &[Of<'_>], group: &Group<'_>) -> String {
    match stop {
        Stop::Crossing(one, other) => {
            let has = |path: &Path| {
                let has = |of: &&Of<'_>| {
                    let paths = &of.way.product.paths;
                    paths.any_of.iter().flatten().chain(&paths.none_of).any(|known| known == path)
                };
                ways.iter().find(has).map(|of| of.policy.resource)
            };
            let shown = |path: &Path| {
                let (path, regex) = path.written();
                path.or(regex).unwrap_or_default()
            };
            format!(
                "{} ask for different tokens where their paths cross: `{}` and `{}` (as jwt-auth writes them) have paths in common, \
                 and no order of rules says what these need",
                titles(has(one).into_iter().chain(has(other))),
                shown(one),
                shown(other)
            )
        }
        Stop::Demand(within, why) => {
            let of: Vec<&Resource<'_>> = within.iter().map(|n| ways[*n].policy.resource).collect();
            let first = group.authentications.first().map(|one| one.resource);
            let titles = if of.is_empty() { titles(first) } else { titles(of) };
            format!("{titles} cannot be a rule of jwt-auth for the same requests: {why}")
        }
    }
}

/// The name, or one with a number where it is taken within this.
fn unique(name: &str, within: &str, taken: &mut BTreeSet<String>) -> String {
    let name = if name.is_empty() { "issuer" } else { name };
    let mut unique = name.to_owned();
    for n in 2.. {
        if taken.insert(format!("{within}/{unique}")) {
            break;
        }
        unique = format!("{name}-{n}");
    }
    unique
}

fn config(
    group: &Group<'_>,
    issuers: &[Issuer<'_>],
    ways: &[Of<'_>],
    rules: &[Rule],
    policies_decide: bool,
    mode: Mode,
) -> Result<Yaml, String> {
    let mut config = Yaml::map();
    if mode == Mode::Report {
        config.push(Vec::new(), "mode", Yaml::text("report"), false);
    }
    let mut taken = BTreeSet::new();
    let names: Vec<String> = issuers.iter().map(|issuer| unique(&issuer.name(), "", &mut taken)).collect();
    let mut providers = Yaml::map();
    for (issuer, name) in issuers.iter().zip(&names) {
        let provider = issuer.provider(mode != Mode::Enforce);
        let provider = provider.map_err(|why| {
            format!("{}: {why}", titles(group.authentications.iter().map(|one| one.resource)))
        })?;
        providers.push(Vec::new(), name, provider, true);
    }
    config.push(Vec::new(), "providers", providers, true);
    let preflight = "In Istio, the policies decide about CORS preflights, which have no token. Without this, they go to the service.";
    let has_policies = ways.iter().any(|of| of.policy.action != Action::Other);
    if has_policies {
        config.push(vec![preflight.to_owned()], "corsPreflight", Yaml::text("check"), false);
    }
    let spaced: BTreeSet<String> = issuers.iter().flat_map(Issuer::spaced).collect();
    let mut list = Vec::new();
    let mut taken = BTreeSet::new();
    for rule in rules {
        list.push(written(rule, rules.len(), policies_decide, ways, &names, &spaced, &mut taken)?);
    }
    let mut remarks = Vec::new();
    if rules.iter().any(|rule| !rule.paths.is_empty()) {
        remarks.push(
            "A slash at the end of a path makes no difference here: `/a` is also `/a/`, and `/a/*` is also `/a`. A path that servers read \
             differently (`//`, `;`, `%2F`) is answered with 400."
                .to_owned(),
        );
    }
    let names_hosts = |of: &Of<'_>| {
        let hosts = &of.way.product.hosts;
        hosts.any_of.is_some() || !hosts.none_of.is_empty()
    };
    if ways.iter().any(names_hosts) {
        remarks.push(
            "The port of a host makes no difference here: `a.example` is also `a.example:8080`.".to_owned(),
        );
    }
    config.push(remarks, "rules", Yaml::List(list), true);
    let read = filters::read("jwt-auth", &config.value(), &BTreeMap::new());
    match read {
        Ok(_) => Ok(config),
        Err(errors) => Err(format!(
            "{}: jwt-auth refuses what would stand in its place: {errors}",
            titles(group.authentications.iter().map(|one| one.resource))
        )),
    }
}

fn written(
    rule: &Rule,
    rules: usize,
    policies_decide: bool,
    ways: &[Of<'_>],
    providers: &[String],
    spaced: &BTreeSet<String>,
    taken: &mut BTreeSet<String>,
) -> Result<(Vec<String>, Yaml), String> {
    let mut remarks: Vec<String> = Vec::new();
    let mut condition = Yaml::map();
    if !rule.hosts.is_empty() {
        condition = condition.with("hosts", Yaml::texts(rule.hosts.iter().map(Host::written)));
    }
    let (mut paths, mut regexes) = (Vec::new(), Vec::new());
    for path in &rule.paths {
        remarks.extend(path.remark());
        let (path, regex) = path.written();
        paths.extend(path);
        regexes.extend(regex);
    }
    paths.sort_by_key(|path| (path.len(), path.clone()));
    if !paths.is_empty() {
        condition = condition.with("paths", Yaml::texts(paths));
    }
    if !regexes.is_empty() {
        condition = condition.with("pathRegexes", Yaml::texts(regexes));
    }
    if !rule.methods.is_empty() {
        condition =
            condition.with("methods", Yaml::texts(rule.methods.iter().map(|method| method.0.clone())));
    }
    let is_rest = condition == Yaml::map();
    if is_rest && rule.within.is_empty() && rule.demand == Demand::Anyone && policies_decide {
        remarks.push("The AuthorizationPolicies decide about all other requests.".to_owned());
    }
    if is_rest {
        condition = condition.with("any", Yaml::Plain(Value::Bool(true)));
    }
    // A rule is called after the policy that has most to say about its requests.
    let of = |action: Action| rule.within.iter().map(|n| &ways[*n]).find(|of| of.policy.action == action);
    let name: String = match (of(Action::Allow).or_else(|| of(Action::Deny)), &rule.demand) {
        (Some(of), _) => of
            .policy
            .resource
            .name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' })
            .collect(),
        (None, Demand::Nobody) if is_rest && rules > 1 => "others".to_owned(),
        (None, Demand::Nobody) => "nobody".to_owned(),
        (None, _) if is_rest && rules > 1 => "others".to_owned(),
        (None, _) => "anyone".to_owned(),
    };
    let name = unique(&name, "", taken);
    let mut written = Yaml::map().with("name", Yaml::text(name)).with("match", condition);
    written = match &rule.demand {
        Demand::Anyone => written.with("allow", Yaml::text("anyone")),
        Demand::Nobody => written.with("allow", Yaml::text("nobody")),
        Demand::Token(demanded) => written.with(
            "require",
            require(demanded, providers, spaced).map_err(|why| {
                let of = titles(rule.within.iter().map(|n| ways[*n].policy.resource));
                format!("{of} cannot be a rule of jwt-auth: {why}")
            })?,
        ),
    };
    Ok((remarks, written))
}

/// The metadata of a resource that is about the same workloads.
fn metadata(name: &str, group: &Group<'_>) -> Yaml {
    let metadata = Yaml::map().with("name", Yaml::text(name));
    match group.scope.namespace.as_str() {
        "" => metadata,
        namespace => metadata.with("namespace", Yaml::text(namespace)),
    }
}

fn wasm_plugin(group: &Group<'_>, arguments: &Convert, name: &str, config: Yaml) -> Yaml {
    let mut spec = group.scope.select(Yaml::map());
    match &arguments.image {
        Some(image) => spec.push(Vec::new(), "url", Yaml::text(image), false),
        None => spec.push(
            vec!["Name your image here, with its digest (`--image`).".to_owned()],
            "url",
            Yaml::text(concat!("oci://registry.example/jwt-auth:", env!("CARGO_PKG_VERSION"))),
            false,
        ),
    }
    spec = spec
        .with("pluginName", Yaml::text("jwt-auth"))
        .with("phase", Yaml::text("AUTHN"))
        .with("failStrategy", Yaml::text("FAIL_RELOAD"));
    if !group.scope.are_gateways() {
        let server = Yaml::map().with("mode", Yaml::text("SERVER"));
        spec = spec.with("match", Yaml::List(vec![(Vec::new(), server)]));
    }
    spec = spec.with_tall("pluginConfig", config);
    Yaml::map()
        .with("apiVersion", Yaml::text("extensions.istio.io/v1alpha1"))
        .with("kind", Yaml::text("WasmPlugin"))
        .with("metadata", metadata(name, group))
        .with_tall("spec", spec)
}

/// What stays of policies that test tokens.
fn remaining(group: &Group<'_>, ways: &[Of<'_>], decides_alone: bool, name: &str) -> Vec<String> {
    let of_tokens = || group.policies.iter().filter(|policy| policy.is_of_tokens());
    let mut stay: Vec<String> = of_tokens()
        .filter(|policy| policy.action == Action::Deny || !decides_alone)
        .filter_map(|policy| {
            let remark = format!("{}, without what it said of tokens.", policy.resource.title());
            Some(commented(&[remark], &policy.without_tokens()?))
        })
        .collect();
    // A port that is not HTTP: a rule that denies by tokens closes it, and so do policies none of whose rules allows everything.
    let denies = of_tokens().any(|policy| policy.action == Action::Deny);
    let allows = ways.iter().filter(|of| of.policy.action == Action::Allow);
    let any_port = |of: &Of<'_>| of.way.token.is_empty() && of.way.product.is_everything();
    let has_allow = group.policies.iter().any(|policy| policy.action == Action::Allow);
    let is_closed = denies || (has_allow && !allows.clone().any(any_port));
    if !(denies || (decides_alone && is_closed)) {
        return stay;
    }
    let remark = "As before, nothing but HTTP reaches these workloads: where a port is not HTTP, Istio leaves the method out of this rule, \
                  which then denies everything. No request has this method.";
    let operation = Yaml::map().with("operation", Yaml::map().with("methods", Yaml::texts(["NOT-HTTP"])));
    let rule = Yaml::map().with("to", Yaml::List(vec![(Vec::new(), operation)]));
    let spec = group.scope.select(Yaml::map()).with("action", Yaml::text("DENY"));
    let policy = Yaml::map()
        .with("apiVersion", Yaml::text("security.istio.io/v1"))
        .with("kind", Yaml::text("AuthorizationPolicy"))
        .with("metadata", metadata(name, group))
        .with_tall("spec", spec.with_tall("rules", Yaml::List(vec![(Vec::new(), rule)])));
    stay.push(commented(&[remark.to_owned()], &policy));
    stay
}

/// Some of a group's resources.
type Authentications<'a> = Vec<&'a &'a Authentication<'a>>;

/// How the old resources are left, step by step.
fn steps(group: &Group<'_>, old: &str, decides_alone: bool, has_policies: bool) -> Vec<String> {
    let delete = |kind: &str, resources: &[&Resource<'_>]| {
        let namespace = resources.first().map(|resource| resource.namespace).unwrap_or_default();
        let namespace = if namespace.is_empty() { String::new() } else { format!(" -n {namespace}") };
        let names: Vec<&str> = resources.iter().map(|resource| resource.name).collect();
        format!("kubectl delete {kind}{namespace} {}", names.join(" "))
    };
    let gone: Vec<&Resource<'_>> = group
        .policies
        .iter()
        .filter(|policy| match policy.action {
            Action::Allow => decides_alone,
            Action::Deny => {
                policy.is_of_tokens() && policy.scope == group.scope && policy.without_tokens().is_none()
            }
            Action::Other => false,
        })
        .map(|policy| policy.resource)
        .collect();
    let (ends, stays): (Authentications<'_>, Authentications<'_>) =
        group.authentications.iter().partition(|one| one.scope == group.scope);
    let mut steps = Vec::new();
    if has_policies {
        steps.push("Apply the policies of this output (`--only policies`).".to_owned());
    }
    if !gone.is_empty() {
        steps.push(delete("authorizationpolicy", &gone));
    }
    steps.push("Apply this plugin.".to_owned());
    let ends: Vec<&Resource<'_>> = ends.iter().map(|one| one.resource).collect();
    if !ends.is_empty() {
        steps.push(delete("requestauthentication", &ends));
    }
    let mut said = vec![format!("In the place of {old}. While the plugin of `--mode beside` is in force:")];
    said.extend(steps.iter().enumerate().map(|(n, step)| format!("  {}. {step}", n + 1)));
    if !stays.is_empty() {
        said.push(format!(
            "{} stays for other workloads. On these it finds no token, since this plugin has taken it.",
            titles(stays.iter().map(|one| one.resource))
        ));
    }
    said
}

/// What Istio needs to know of a host outside the mesh, so that the proxy can fetch keys there.
fn external(
    keys: &Keys,
    group: &Group<'_>,
    input: &Input<'_>,
    fetched: &mut BTreeSet<String>,
) -> Vec<String> {
    let is_inside = is_in_cluster(&keys.host) || !keys.host.contains('.');
    if is_inside || !keys.is_tls || input.entries.contains(&keys.host) || !fetched.insert(keys.host.clone()) {
        return Vec::new();
    }
    let name = format!("keys-{}", keys.host.replace('.', "-"));
    let metadata = || {
        let metadata = Yaml::map().with("name", Yaml::text(&name));
        metadata.with("namespace", Yaml::text(&group.scope.namespace))
    };
    let port = Yaml::map()
        .with("number", Yaml::Plain(keys.port.into()))
        .with("name", Yaml::text("https"))
        .with("protocol", Yaml::text("HTTPS"));
    let entry = Yaml::map()
        .with("apiVersion", Yaml::text("networking.istio.io/v1"))
        .with("kind", Yaml::text("ServiceEntry"))
        .with("metadata", metadata())
        .with_tall(
            "spec",
            Yaml::map()
                .with("hosts", Yaml::texts([&keys.host]))
                .with("ports", Yaml::List(vec![(Vec::new(), port)]))
                .with("location", Yaml::text("MESH_EXTERNAL"))
                .with("resolution", Yaml::text("DNS")),
        );
    let tls = Yaml::map().with("mode", Yaml::text("SIMPLE")).with("sni", Yaml::text(&keys.host));
    let rule = Yaml::map()
        .with("apiVersion", Yaml::text("networking.istio.io/v1"))
        .with("kind", Yaml::text("DestinationRule"))
        .with("metadata", metadata())
        .with_tall(
            "spec",
            Yaml::map()
                .with("host", Yaml::text(&keys.host))
                .with("trafficPolicy", Yaml::map().with("tls", tls)),
        );
    let remark = format!("# The proxies fetch the keys from {}.\n", keys.host);
    vec![remark + &entry.document(), rule.document()]
}
