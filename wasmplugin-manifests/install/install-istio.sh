#!/usr/bin/env bash
# Installs Istio's control plane by revision, upgrades it by another revision, and removes it. It checks the cluster first, and
# says what it does.
set -euo pipefail

usage() {
  cat <<'TEXT'
install-istio.sh [--profile dev|ha] [--revision NAME] [--file FILE]... [--dry-run]
install-istio.sh --uninstall [--revision NAME] [--dry-run]

  --profile    dev (default): one istiod; ha: two or more, spread over zones
  --revision   name of the control plane, default from the version; another one beside it is an upgrade
  --file       an IstioOperator of your own on top, for settings that these files lack
  --dry-run    check and say what would be done, change nothing
  --uninstall  remove one revision, or without --revision all of Istio with its CRDs and all that uses them
TEXT
}

version=1.31.0
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
profile=dev revision=${version//./-} files=() dry_run=false uninstall=false revision_given=false
namespace=istio-system

while [ $# -gt 0 ]; do
  case $1 in
    --profile) profile=${2:?--profile needs a value: dev or ha} && shift 2 ;;
    --revision) revision=${2:?--revision needs a name} && revision_given=true && shift 2 ;;
    --file) files+=("${2:?--file needs a file}") && shift 2 ;;
    --dry-run) dry_run=true && shift ;;
    --uninstall) uninstall=true && shift ;;
    -h | --help) usage && exit ;;
    *) echo "install-istio.sh: unknown option $1" >&2 && usage >&2 && exit 2 ;;
  esac
done

say() { echo "install-istio: $*"; }
fail() { echo "install-istio: $*" >&2 && exit 1; }

# change TEXT COMMAND...: says what it does and does it, or only says it in a dry run.
change() {
  local what=$1 && shift
  if $dry_run; then say "would $what"; else say "$what" && "$@"; fi
}

case $profile in
  dev) files=("$here/istio.yaml" "${files[@]}") ;;
  ha) files=("$here/istio.yaml" "$here/istio-ha.yaml" "${files[@]}") ;;
  *) fail "the profile $profile is unknown: expected dev or ha" ;;
esac
[[ $revision =~ ^[a-z0-9]([-a-z0-9]*[a-z0-9])?$ ]] || fail "the revision $revision is not valid: expected only lower-case letters, digits and -"
for file in "${files[@]}"; do [ -r "$file" ] || fail "cannot read $file"; done

# --- istioctl: from PATH where it has the version, else fetched and checked against the release's checksum.
# (No grep -q behind a pipe here: it ends at the first match, and pipefail takes what that does to the writer for a failure.)
find_istioctl() {
  if [ "$(istioctl version --remote=false --short 2>/dev/null)" = "$version" ] ||
    istioctl version --remote=false 2>/dev/null | grep -F "$version" >/dev/null; then
    istioctl=istioctl
    return
  fi
  local folder=${XDG_CACHE_HOME:-$HOME/.cache}/install-istio/$version archive base
  istioctl=$folder/istioctl
  [ -x "$istioctl" ] && return
  archive=istioctl-$version-$(uname -s | sed 's/Darwin/osx/;s/Linux/linux/')-$(uname -m | sed 's/x86_64/amd64/;s/aarch64/arm64/').tar.gz
  base=https://github.com/istio/istio/releases/download/$version
  say "fetch istioctl $version into $folder"
  mkdir -p "$folder"
  curl -fsSL --proto '=https' -o "$folder/$archive" "$base/$archive"
  curl -fsSL --proto '=https' -o "$folder/$archive.sha256" "$base/$archive.sha256"
  (cd "$folder" && sha256sum --check --quiet "$archive.sha256") || fail "$archive does not match its checksum"
  tar -xzf "$folder/$archive" -C "$folder" istioctl
}

# --- Checks: nothing is changed before they pass.
for tool in kubectl curl sha256sum; do command -v "$tool" >/dev/null || fail "$tool is not on PATH"; done
find_istioctl
kubectl version >/dev/null 2>&1 || fail "kubectl cannot reach a cluster"
kubectl auth can-i create clusterroles --all-namespaces --quiet || fail "this account may not create cluster roles: use an administrator's"

revisions() { kubectl get deployment -n "$namespace" -l app=istiod -o jsonpath='{range .items[*]}{.metadata.labels.istio\.io/rev}{"\n"}{end}' 2>/dev/null; }
default_revision() { kubectl get mutatingwebhookconfiguration istio-revision-tag-default -o jsonpath='{.metadata.labels.istio\.io/rev}' 2>/dev/null || true; }

if $uninstall; then
  if $revision_given; then
    revisions | grep -x "$revision" >/dev/null || fail "the revision $revision is not installed"
    [ "$(default_revision)" != "$revision" ] || fail "revision $revision is the default one: install another first, or uninstall without --revision"
    left=$(kubectl get pods -A -l istio.io/rev="$revision" -o name | grep -vc istiod || true)
    [ "$left" = 0 ] || fail "$left pods still have a sidecar of revision $revision: restart their deployments first"
    change "remove revision $revision" "$istioctl" uninstall --revision "$revision" -y
  else
    list_crds() { kubectl get crd -o name | grep '\.istio\.io$' || true; }
    if [ -z "$(list_crds)$(revisions)" ]; then say "nothing is installed" && exit; fi
    change "remove every control plane, Istio's CRDs and all resources of their kinds" "$istioctl" uninstall --purge -y
    # Some releases leave the CRDs behind; of others some are still going.
    crds=$(list_crds)
    # shellcheck disable=SC2086
    $dry_run || [ -z "$crds" ] || kubectl delete --ignore-not-found $crds
    change "remove namespace $namespace" kubectl delete namespace "$namespace" --ignore-not-found
    change "remove the root certificates in the namespaces" kubectl delete configmap -A --field-selector metadata.name=istio-ca-root-cert
  fi
  exit
fi

# What was installed is known by the sum of all that it was installed from.
wanted=$({ echo "$version $profile" && cat "${files[@]}"; } | sha256sum | cut -c1-63)
installed=$(kubectl get deployment -n "$namespace" "istiod-$revision" -o jsonpath='{.metadata.labels.install-sum}' 2>/dev/null || true)
if [ "$installed" = "$wanted" ] && [ "$(default_revision)" = "$revision" ]; then
  say "revision $revision is installed as asked: nothing to do"
  exit
fi
"$istioctl" x precheck >/dev/null || fail "the cluster is not ready for Istio: see istioctl x precheck"

operators=()
for file in "${files[@]}"; do operators+=(-f "$file"); done
"$istioctl" manifest generate "${operators[@]}" --revision "$revision" >/dev/null || fail "istioctl cannot make a manifest from the settings"

others=$(revisions | grep -vx "$revision" | tr '\n' ' ' || true)
[ -z "$others" ] || say "upgrade: revision $revision beside $others"
change "install Istio $version, profile $profile, revision $revision" \
  "$istioctl" install -y "${operators[@]}" --revision "$revision" --readiness-timeout 5m
change "make $revision the default revision, which istio-injection=enabled follows" \
  "$istioctl" tag set default --revision "$revision" --overwrite
change "note what was installed" kubectl label deployment -n "$namespace" "istiod-$revision" "install-sum=$wanted" --overwrite
[ -z "$others" ] || say "now restart the workloads (kubectl rollout restart deployment -n NAMESPACE), then remove the old revision: --uninstall --revision ${others%% *}"
