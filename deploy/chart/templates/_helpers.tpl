{{- /* image: by digest, or by tag. A tag of digits is a float64 if it comes from a file. */ -}}
{{- define "image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else if kindIs "float64" .Values.image.tag -}}
{{ .Values.image.repository }}:{{ printf "%.0f" .Values.image.tag }}
{{- else if kindIs "int64" .Values.image.tag -}}
{{ .Values.image.repository }}:{{ .Values.image.tag }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "serviceAccount" -}}
{{ .Values.serviceAccount.name | default "multi-enid" }}
{{- end }}

{{- define "controllerAccount" -}}
{{ .Values.controller.serviceAccount.name | default "multi-enid-controller" }}
{{- end }}

{{- /* netnsDirs: the paths under which records name the network namespaces of pods, as a YAML list. */ -}}
{{- define "netnsDirs" -}}
{{- $dir := trimPrefix "/var" .Values.cni.netnsDir -}}
{{- if hasPrefix "/run/" $dir -}}
{{- list $dir (print "/var" $dir) | toYaml }}
{{- else -}}
{{- list .Values.cni.netnsDir | toYaml }}
{{- end }}
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
