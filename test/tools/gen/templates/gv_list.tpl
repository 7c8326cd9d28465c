{{- define "gvList" -}}
# API reference

This page is for people who write NodeENIs or read ENINodeStates. kubectl explain shows the same descriptions.
{{ range . }}
{{ template "gvDetails" . }}
{{- end }}
{{- end -}}
