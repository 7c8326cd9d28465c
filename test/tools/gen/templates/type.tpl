{{- define "type" -}}
{{- if markdownShouldRenderType . }}
### {{ .Name }}
{{ if .IsAlias }}Underlying type: {{ markdownRenderTypeLink .UnderlyingType }}.

{{ end -}}
{{ .Doc }}
{{ with .Validation }}
Validation: {{ join ", " . }}.
{{ end -}}
{{ if .References }}
Appears in
{{- range $i, $t := .SortedReferences }}{{ if $i }},{{ end }} {{ markdownRenderTypeLink $t }}{{ end }}.
{{ end -}}
{{ if .Members }}
{{ if .GVK -}}
- `apiVersion` _string_: `{{ .GVK.Group }}/{{ .GVK.Version }}`
- `kind` _string_: `{{ .GVK.Kind }}`
{{ end -}}
{{ range .Members -}}
{{ template "type_members" . }}
{{ end -}}
{{ end -}}
{{ with .EnumValues }}
{{ range . -}}
- `{{ .Name }}`: {{ .Doc }}
{{ end -}}
{{ end -}}
{{ end -}}
{{- end -}}
