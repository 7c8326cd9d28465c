{{- define "type_members" -}}
{{- $doc := ternary "See the Kubernetes API documentation." .Doc (eq .Name "metadata") -}}
{{- $more := "" -}}
{{- range .Validation }}{{ $more = printf "%s, %s" $more (. | replace "Optional: {}" "optional" | replace "Required: {}" "required") }}{{ end -}}
{{- with .Default }}{{ $more = printf "%s, default `%s`" $more . }}{{ end -}}
{{- printf "- `%s` _%s_%s: %s" .Name (markdownRenderType .Type) $more ($doc | replace "\n" " ") | wrap 148 | replace "\n" "\n  " -}}
{{- end -}}
