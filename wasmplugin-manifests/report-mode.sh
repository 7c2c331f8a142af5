#!/usr/bin/env bash
# Kill switch: one service's filter only reports what it would refuse, or refuses again.
# Usage: report-mode.sh jwt-auth|rate-limit SERVICE on|off        SERVICE as in WasmPlugin FILTER-SERVICE: auth, user, content …
set -euo pipefail

[[ $# -eq 3 && $1 =~ ^(jwt-auth|rate-limit)$ && $3 =~ ^(on|off)$ ]] || { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }
plugin=$1-$2
mode=$([[ $3 == on ]] && echo report || echo enforce)

patch() { kubectl patch wasmplugin -n adaptive-learning "$plugin" "$@"; }

if [[ $1 == jwt-auth ]]; then
  patch --type=merge -p "{\"spec\":{\"pluginConfig\":{\"mode\":\"$mode\"}}}"
else
  # rate-limit has a mode for each limit.
  count=$(kubectl get wasmplugin -n adaptive-learning "$plugin" -o 'jsonpath={.spec.pluginConfig.limits[*].name}' | wc -w)
  changes=$(for ((n = 0; n < count; n++)); do
    printf '%s{"op":"add","path":"/spec/pluginConfig/limits/%d/mode","value":"%s"}' "$([[ $n -eq 0 ]] || echo ,)" "$n" "$mode"
  done)
  patch --type=json -p "[$changes]"
fi
