{{- define "image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "labels" -}}
app.kubernetes.io/name: {{ . }}
app.kubernetes.io/part-of: multi-eni-cni
{{- end }}

{{- /* pod: what the pods of both DaemonSets have in common; takes the root. */ -}}
{{- define "pod" -}}
hostNetwork: true
{{- with .Values.seLinuxOptions }}
securityContext:
  seLinuxOptions:
{{- toYaml . | nindent 4 }}
{{- end }}
priorityClassName: {{ .Values.priorityClassName }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
{{- toYaml . | nindent 0 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
{{- toYaml . | nindent 0 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
{{- toYaml . | nindent 2 }}
{{- end }}
nodeSelector:
  kubernetes.io/os: linux
{{- with .Values.nodeSelector }}
{{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "podMetadata" -}}
{{- with .Values.podAnnotations }}
annotations:
{{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
