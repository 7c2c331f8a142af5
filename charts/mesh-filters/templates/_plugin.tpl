{{/* One WasmPlugin: of `filter` for the pods with the label `app`, with what the filter's plugins share and what is its own. */}}
{{- define "mesh-filters.plugin" }}
{{- $values := .root.Values }}
---
apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata:
  name: {{ .filter }}-{{ .name }}{{ if eq $values.track "canary" }}-canary{{ end }}
  namespace: {{ .namespace | default $values.namespace | default .root.Release.Namespace }}
  labels: { filter: {{ .filter }} }
spec:
  selector:
    matchLabels:
      app: {{ required (printf "services.%s.app is missing" .name) .app }}
      {{- with $values.track }}
      track: {{ . }}
      {{- end }}
  url: {{ required (printf "the image of %s is missing: its url" .filter) .shared.image.url | quote }}
  sha256: {{ required (printf "the image of %s is missing: its sha256" .filter) .shared.image.sha256 | quote }}
  {{- with $values.imagePullSecret }}
  imagePullSecret: {{ . }}
  {{- end }}
  pluginName: {{ .filter }}
  phase: {{ .shared.phase }}
  {{- with .shared.priority }}
  priority: {{ . }}
  {{- end }}
  failStrategy: {{ .shared.failStrategy }}
  match: [{ mode: SERVER }]
  {{- if ne .filter "jwt-auth" }}
  vmConfig:
    env:
      - { name: PSEUDONYM_KEY, value: {{ required "pseudonymKey is missing" $values.pseudonymKey | quote }} }
  {{- end }}
  pluginConfig:
    {{- mergeOverwrite (deepCopy .shared.config) (.own | default dict) | toYaml | nindent 4 }}
{{- end }}
