//! `mesh-filters convert`: from Istio's own resources to these filters.
//!
//! What is decided about a request stays the same. Where that cannot be, nothing is written, and the resources are named.

mod authentication;
mod cells;
mod pattern;
mod plugin;
mod policy;
mod scope;
mod token;
mod yaml;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::check::unpacked;
use crate::document::{self, Node};
use crate::resource::Resource;

use authentication::Issuer;
use policy::{Action, Policy};
use scope::{Relation, Scope};

/// The arguments of `convert`.
#[derive(clap::Args)]
pub(crate) struct Convert {
    /// Files, folders, or `-`.
    #[arg(default_value = "-")]
    inputs: Vec<PathBuf>,
    /// What the plugins do.
    #[arg(long, value_enum, default_value_t = Mode::Report)]
    mode: Mode,
    /// Writes the plugins alone, or the policies alone.
    #[arg(long, value_enum)]
    only: Option<Only>,
    /// The image of jwt-auth, with its digest: `oci://registry.example/jwt-auth@sha256:…`.
    #[arg(long, value_name = "URL")]
    image: Option<String>,
    /// The namespace whose resources are about the whole mesh.
    #[arg(long, default_value = "istio-system", value_name = "NAMESPACE")]
    root_namespace: String,
}

/// What the plugins do, and whether the old resources are still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// They report what they would refuse, beside the old resources.
    Report,
    /// They refuse, beside the old resources.
    Beside,
    /// They refuse, and what stays of the old resources is written, too.
    Enforce,
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Only {
    /// Plugins, and what the fetch of keys needs.
    Plugins,
    /// What stays of the policies.
    Policies,
}

/// What all groups share.
#[derive(Default)]
struct Made {
    /// What is written.
    plugins: Vec<String>,
    policies: Vec<String>,
    /// Hosts of keys that have a ServiceEntry.
    fetched: BTreeSet<String>,
    /// The names of plugins, with their namespaces.
    names: BTreeSet<String>,
}

/// RequestAuthentication.
struct Authentication<'a> {
    resource: &'a Resource<'a>,
    scope: Scope,
}

/// What is read of the input.
struct Input<'a> {
    authentications: Vec<Authentication<'a>>,
    policies: Vec<Policy<'a>>,
    /// Resources that route by claims.
    routed: Vec<&'a Resource<'a>>,
    /// Hosts that have a ServiceEntry.
    entries: BTreeSet<String>,
}

/// Workloads, and the resources that are about all of them.
struct Group<'a> {
    scope: Scope,
    authentications: Vec<&'a Authentication<'a>>,
    policies: Vec<&'a Policy<'a>>,
}

/// Names of resources, as a sentence has them.
fn titles<'a>(resources: impl IntoIterator<Item = &'a Resource<'a>>) -> String {
    let mut names: Vec<String> = Vec::new();
    for resource in resources {
        let title = resource.title();
        if !names.contains(&title) {
            names.push(title);
        }
    }
    match names.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
        None => String::new(),
    }
}

/// Converts, and prints.
///
/// # Errors
/// The input cannot be read.
pub(crate) fn run(arguments: &Convert) -> Result<(String, ExitCode), String> {
    let document::Inputs { sources, unread, .. } = document::read_each(&arguments.inputs);
    if let Some(error) = unread.first() {
        return Err(error.clone());
    }
    let mut documents = Vec::new();
    for (n, source) in sources.iter().enumerate() {
        let nodes =
            document::parse(&source.text).map_err(|error| format!("{}: {}", source.name, error.message))?;
        documents.extend(nodes.into_iter().map(|node| (n, node)));
    }
    let resources: Vec<Resource<'_>> = documents
        .iter()
        .map(|(n, node)| Resource::of(*n, &sources[*n].text, node))
        .flat_map(unpacked)
        .collect();
    let input = read(&resources, &arguments.root_namespace);
    if input.authentications.is_empty() {
        return Err(
            "there is no RequestAuthentication in the input, so that there is nothing to convert".to_owned()
        );
    }
    let (mut made, mut refused) = (Made::default(), Vec::new());
    for scope in scopes(&input) {
        match group(&input, scope) {
            Ok(None) => {}
            Ok(Some(group)) => refused.extend(plugin::documents(&group, &input, arguments, &mut made).err()),
            Err(why) => refused.push(why),
        }
    }
    for why in &refused {
        eprintln!("mesh-filters: not converted: {why}");
    }
    let code = if refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    let documents = match arguments.only {
        Some(Only::Plugins) => made.plugins,
        Some(Only::Policies) => made.policies,
        // The policies first: they stand before the plugin takes the token from them.
        None => [made.policies, made.plugins].concat(),
    };
    Ok((documents.join("---\n"), code))
}

fn read<'a>(resources: &'a [Resource<'a>], root: &str) -> Input<'a> {
    let of = |kind: &'static str| resources.iter().filter(move |resource| resource.kind == kind);
    let has_rules = |resource: &&Resource<'_>| {
        resource.node.at(&["spec", "jwtRules"]).is_some_and(|rules| !rules.elements().is_empty())
    };
    let routes_by_claims =
        |resource: &&Resource<'_>| resource.node.value().to_string().contains("@request.auth.claims");
    let hosts = |resource: &Resource<'_>| -> Vec<String> {
        let hosts = resource.node.at(&["spec", "hosts"]).map(Node::elements).unwrap_or_default();
        hosts.iter().filter_map(Node::text).map(str::to_owned).collect()
    };
    Input {
        authentications: of("RequestAuthentication")
            .filter(has_rules)
            .map(|resource| Authentication {
                resource,
                scope: Scope::of(resource.node, resource.namespace, root),
            })
            .collect(),
        policies: of("AuthorizationPolicy").map(|resource| Policy::of(resource, root)).collect(),
        routed: of("VirtualService").filter(routes_by_claims).collect(),
        entries: of("ServiceEntry").flat_map(hosts).collect(),
    }
}

/// The workloads that a resource about tokens is about, each once.
fn scopes<'a>(input: &'a Input<'a>) -> Vec<&'a Scope> {
    let mut found: Vec<&Scope> = Vec::new();
    let policies = input.policies.iter().filter(|policy| policy.is_of_tokens()).map(|policy| &policy.scope);
    for scope in input.authentications.iter().map(|one| &one.scope).chain(policies) {
        if !found.contains(&scope) {
            found.push(scope);
        }
    }
    found
}

/// The resources for these workloads; `None` if others of the input are about parts of them, and so have the plugins.
///
/// # Errors
/// No plugin can be about these workloads alone.
fn group<'a>(input: &'a Input<'a>, scope: &'a Scope) -> Result<Option<Group<'a>>, String> {
    let own = || {
        let authentications = input.authentications.iter().map(|one| (&one.scope, one.resource));
        let policies = input.policies.iter().filter(|policy| policy.is_of_tokens());
        authentications.chain(policies.map(|policy| (&policy.scope, policy.resource)))
    };
    let first = own().find(|(of, _)| *of == scope).map(|(_, resource)| resource);
    let Some(first) = first else { return Ok(None) };
    let speaks = |resource: &Resource<'_>| own().any(|(_, other)| other.title() == resource.title());
    let (mut authentications, mut policies, mut inner) = (Vec::new(), Vec::new(), None);
    let all = input.authentications.iter().map(|one| (&one.scope, one.resource, Some(one), None));
    let all = all.chain(input.policies.iter().map(|one| (&one.scope, one.resource, None, Some(one))));
    for (other, resource, authentication, policy) in all {
        match scope.relation(other) {
            Relation::Apart => {}
            Relation::Same | Relation::Within => {
                authentications.extend(authentication);
                policies.extend(policy);
            }
            Relation::Holds if speaks(resource) => inner = inner.or(Some(resource)),
            Relation::Holds if policy.is_some_and(|policy| policy.action != Action::Allow) => {}
            Relation::Holds | Relation::Crossing => {
                if policy.is_some_and(|policy| policy.action != Action::Allow && !policy.is_of_tokens()) {
                    continue;
                }
                return Err(format!(
                    "{} and {} are about workloads that only some of them share, and no selector says which. Give them the same \
                     selector, or selectors that exclude each other.",
                    first.title(),
                    resource.title()
                ));
            }
        }
    }
    if let Some(inner) = inner {
        // A RequestAuthentication may stay: it finds no token where a plugin has taken it.
        let token_policy =
            input.policies.iter().find(|policy| policy.scope == *scope && policy.is_of_tokens());
        return match token_policy {
            None => Ok(None),
            Some(policy) => Err(format!(
                "{} is also about the workloads of {}, and two plugins would check their tokens. Write its rules for each of the \
                 workloads, with the selector of these.",
                policy.resource.title(),
                inner.title()
            )),
        };
    }
    let wider = policies.iter().find(|policy| policy.scope != *scope && policy.is_of_tokens());
    if let Some(wider) = wider {
        return Err(format!(
            "{} is also about other workloads than {}, where it must stay, and it finds no principal where a plugin has checked the \
             token. Write its rules for each of the workloads, with the selector of these.",
            wider.resource.title(),
            first.title()
        ));
    }
    if authentications.is_empty() {
        return Err(format!(
            "no RequestAuthentication in the input is about the workloads of {}, so that nothing says whose tokens are meant",
            first.title()
        ));
    }
    Ok(Some(Group { scope: scope.clone(), authentications, policies }))
}

impl<'a> Group<'a> {
    /// The issuers, in Istio's order.
    fn issuers(&self) -> Result<Vec<Issuer<'a>>, String> {
        let mut found = Vec::new();
        for authentication in &self.authentications {
            let of_it = Issuer::all(authentication.resource.node);
            found.extend(of_it.map_err(|why| format!("{}: {why}", authentication.resource.title()))?);
        }
        found.sort_by_key(|issuer| issuer.issuer);
        Ok(found)
    }
}
