{{- /* How `helm test` calls: with a token that it signs, with a given token, or without credentials, which
must be refused. */ -}}
{{- define "markread.testWay" -}}
{{- if .Values.auth.jwt.secret.existingSecret }}signed{{ else if .Values.tests.token.existingSecret }}given{{ else }}refused{{ end -}}
{{- end -}}

{{- /* Secret with the CAs of the server's certificate. Empty: the root certificates of the image, or no TLS. */ -}}
{{- define "markread.testCASecret" -}}
{{- if and .Values.tls.existingSecret .Values.tests.tls.ca.secretKeys.ca -}}
{{- default .Values.tls.existingSecret .Values.tests.tls.ca.existingSecret -}}
{{- end -}}
{{- end -}}

{{- /* The Secrets that the test reads as files, a list as of markread.secretFiles. */ -}}
{{- define "markread.testFiles" -}}
{{- $way := include "markread.testWay" . -}}
{{- if eq $way "signed" }}
- name: jwt-secret
  secret: {{ .Values.auth.jwt.secret.existingSecret | quote }}
  items: [{key: {{ .Values.auth.jwt.secret.secretKeys.secret | quote }}, path: secret}]
{{- else if eq $way "given" }}
- name: token
  secret: {{ .Values.tests.token.existingSecret | quote }}
  items: [{key: {{ .Values.tests.token.secretKeys.token | quote }}, path: token}]
{{- end }}
{{- with include "markread.testCASecret" . }}
- name: server-ca
  secret: {{ . | quote }}
  items: [{key: {{ $.Values.tests.tls.ca.secretKeys.ca | quote }}, path: ca.crt}]
{{- end }}
{{- end -}}

{{- /* A container of the test: takes (list $ "name" "command of markread" arguments). */ -}}
{{- define "markread.testContainer" -}}
{{- $root := index . 0 -}}
- name: {{ index . 1 }}
  image: {{ include "markread.image" (list $root.Values.image $root.Chart.AppVersion) | quote }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  command: [/markread, {{ index . 2 }}]
  args: {{ index . 3 | toJson }}
  {{- with $root.Values.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.securityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  terminationMessagePolicy: FallbackToLogsOnError
  {{- $files := include "markread.testFiles" $root | fromYamlArray }}
  {{- $signed := eq (include "markread.testWay" $root) "signed" }}
  {{- if or $files $signed }}
  volumeMounts:
    {{- range $files }}
    {{- include "markread.secretMount" . | nindent 4 }}
    {{- end }}
    {{- if $signed }}
    - name: token
      mountPath: /token
    {{- end }}
  {{- end }}
{{- end -}}
