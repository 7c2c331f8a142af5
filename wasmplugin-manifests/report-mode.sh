#!/usr/bin/env bash
# Kill switch: makes a filter of one service only report what it would refuse, or refuse again as it did before.
#
# Usage: report-mode.sh [-n NAMESPACE] FILTER SERVICE on|off|show
#        report-mode.sh list        prints the plugins that report because of this switch, in all namespaces
#
# FILTER     jwt-auth or rate-limit, in a plugin of its own or in mesh-filters; mesh-filters means both of them there
# SERVICE    the second part of the WasmPlugin's or TrafficExtension's name, FILTER-SERVICE: auth, user, sign-in, edge …
# NAMESPACE  the namespace of the plugin; needed if several namespaces have one of this name
#
# `on` keeps the previous modes in an annotation, and `off` restores them. Both may be repeated. `show` prints the modes.
set -euo pipefail

ANNOTATION=mesh-filters/before-report-mode
KEPT=$ANNOTATION

usage() { sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
die() { echo "report-mode: $*" >&2; exit 1; }

namespace=
words=()
while [[ $# -gt 0 ]]; do
  case $1 in
    -n | --namespace) [[ $# -ge 2 ]] || usage; namespace=$2; shift 2 ;;
    --namespace=*) namespace=${1#*=}; shift ;;
    -*) usage ;;
    *) words+=("$1"); shift ;;
  esac
done

if [[ ${words[*]-} == list ]]; then
  for kind in wasmplugin trafficextension; do
    kubectl get "$kind" -A -o "jsonpath={range .items[?(@.metadata.annotations.$KEPT)]}{.kind} {.metadata.namespace}/{.metadata.name}{'\n'}{end}" \
      2>/dev/null || [[ $kind == trafficextension ]] || die "kubectl could not list the plugins"
  done
  exit
fi
[[ ${#words[@]} -eq 3 && ${words[0]} =~ ^(jwt-auth|rate-limit|mesh-filters)$ && ${words[2]} =~ ^(on|off|show)$ ]] || usage
filter=${words[0]} service=${words[1]} wanted=${words[2]}

# The service's plugin: of this filter alone, else of mesh-filters; a WasmPlugin, else a TrafficExtension.
find_plugin() {
  local names=("$filter-$service") where=(-A) kind name all found
  [[ $filter == mesh-filters ]] || names+=("mesh-filters-$service")
  [[ -z $namespace ]] || where=(-n "$namespace")
  for kind in wasmplugin trafficextension; do
    # A cluster may not know the second kind.
    all=$(kubectl get "$kind" "${where[@]}" -o "jsonpath={range .items[*]}{.metadata.namespace} {.metadata.name}{'\n'}{end}" 2>&1) ||
      [[ $kind == trafficextension ]] || die "$all"
    for name in "${names[@]}"; do
      found=$(awk -v name="$name" '$2 == name { print $1 }' <<<"$all")
      [[ -n $found ]] || continue
      [[ $found != *$'\n'* ]] || die "several namespaces have $name: ${found//$'\n'/ }; say which by -n"
      namespace=$found plugin=$kind.extensions.istio.io/$name
      return
    done
  done
  [[ -z $namespace ]] || die "namespace $namespace has no WasmPlugin or TrafficExtension ${names[*]}"
  die "the cluster has no WasmPlugin or TrafficExtension ${names[*]}"
}

# How the plugin is: `version`, `kept`, `annotated`, and for each mode that is to be switched its `names`, `paths`, `modes`.
read_plugin() {
  local config=spec.pluginConfig jwt=no limits=no lines first second third number=0
  [[ $plugin == trafficextension* ]] && config=spec.wasm.pluginConfig
  local jwt_part=$config limits_part=$config
  [[ $plugin == */mesh-filters-* ]] && jwt_part=$config.jwtAuth limits_part=$config.rateLimit
  [[ $filter == rate-limit ]] || jwt=yes
  [[ $filter == jwt-auth ]] || limits=yes
  lines=$(kubectl get -n "$namespace" "$plugin" -o "jsonpath=version {.metadata.resourceVersion}
annotated {.metadata.annotations}
jwt {.$jwt_part}
mode {.$jwt_part.mode}
{range .$limits_part.limits[*]}limit {.name} {.mode}
{end}kept {.metadata.annotations.$KEPT}")
  version='' kept='' annotated='' names=() paths=() modes=()
  local has_jwt='' mode=''
  while read -r first second third; do
    case $first in
      version) version=$second ;;
      annotated) annotated=$second ;;
      jwt) has_jwt=$second ;;
      mode) mode=$second ;;
      limit)
        if [[ $limits == yes ]]; then
          names+=("limit:$second") paths+=("/${limits_part//./\/}/limits/$number/mode") modes+=("${third:-unset}")
        fi
        number=$((number + 1)) ;;
      kept) kept="$second $third" ;;
    esac
  done <<<"$lines"
  if [[ $jwt == yes && -n $has_jwt ]]; then
    names+=(jwt-auth) paths+=("/${jwt_part//./\/}/mode") modes+=("${mode:-unset}")
  fi
  [[ ${#names[@]} -gt 0 ]] || die "$plugin in namespace $namespace has no $filter to switch"
}

# kept_mode NAME: what the annotation says of it.
kept_mode() {
  local entry
  for entry in $kept; do
    [[ ${entry%=*} != "$1" ]] || { echo "${entry##*=}"; return; }
  done
}

show() {
  local n was
  for n in "${!names[@]}"; do
    was=$(kept_mode "${names[n]}")
    echo "${plugin%%.*}/${plugin##*/} in $namespace: ${names[n]} has mode ${modes[n]}${was:+, before: $was}"
  done
}

# Sets `changes`, the operations of a JSON patch, and `record`, what the annotation is to say.
plan() {
  local n entry was
  changes=() record=
  # What the annotation says of the filter's other part, in mesh-filters, stays.
  for entry in $kept; do
    [[ " ${names[*]} " == *" ${entry%=*} "* || ( $filter != jwt-auth && $entry == limit:* ) ]] || record+="$entry "
  done
  for n in "${!names[@]}"; do
    was=$(kept_mode "${names[n]}")
    if [[ $wanted == on ]]; then
      # Where the mode is not `report` although something is kept, the plugin was applied anew: it is as it is now.
      [[ -n $was && ${modes[n]} == report ]] || was=${modes[n]}
      record+="${names[n]}=$was "
      [[ ${modes[n]} == report ]] || changes+=("{\"op\":\"add\",\"path\":\"${paths[n]}\",\"value\":\"report\"}")
    elif [[ ${modes[n]} == report && -n $was && $was != report ]]; then
      if [[ $was == unset ]]; then
        changes+=("{\"op\":\"remove\",\"path\":\"${paths[n]}\"}")
      else
        changes+=("{\"op\":\"replace\",\"path\":\"${paths[n]}\",\"value\":\"$was\"}")
      fi
    fi
  done
  record=${record% }
  local pointer="/metadata/annotations/${ANNOTATION/\//~1}"
  if [[ -n $record && $record != "${kept% }" ]]; then
    [[ -n $annotated ]] || changes+=('{"op":"add","path":"/metadata/annotations","value":{}}')
    changes+=("{\"op\":\"add\",\"path\":\"$pointer\",\"value\":\"$record\"}")
  elif [[ -z $record && -n ${kept% } ]]; then
    changes+=("{\"op\":\"remove\",\"path\":\"$pointer\"}")
  fi
}

find_plugin
for attempt in 1 2 3; do
  read_plugin
  [[ $wanted != show ]] || { show; exit; }
  plan
  [[ ${#changes[@]} -gt 0 ]] || { show; exit; }
  # Nothing is changed if somebody else has changed the plugin since it was read.
  patch="[{\"op\":\"test\",\"path\":\"/metadata/resourceVersion\",\"value\":\"$version\"}"
  patch+=$(printf ',%s' "${changes[@]}")"]"
  if said=$(kubectl patch -n "$namespace" "$plugin" --type=json -p "$patch" 2>&1); then
    read_plugin
    show
    exit
  fi
  now=$(kubectl get -n "$namespace" "$plugin" -o 'jsonpath={.metadata.resourceVersion}')
  [[ $now != "$version" ]] || die "$said"
  [[ $attempt -lt 3 ]] || die "$plugin in namespace $namespace changes all the time: $said"
done
