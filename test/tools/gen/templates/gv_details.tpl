{{- define "gvDetails" -}}
## {{ .GroupVersionString }}

{{ .Doc }}

Resource types:
{{ range .SortedKinds }}
- {{ $.TypeForKind . | markdownRenderTypeLink }}
{{- end }}
{{ range .SortedTypes }}
{{- template "type" . }}
{{- end }}
{{- end -}}
