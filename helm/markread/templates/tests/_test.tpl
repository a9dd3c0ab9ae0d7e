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

{{- /* How `markread mark` and `state` reach the server: arguments, in JSON. */ -}}
{{- define "markread.testServer" -}}
{{- $scheme := ternary "https" "http" (ne .Values.tls.existingSecret "") -}}
{{- $server := list (printf "--address=%s://%s:%v" $scheme (include "markread.host" .) .Values.service.port) -}}
{{- if include "markread.testCASecret" . }}{{ $server = append $server "--tls-ca=/etc/markread/server-ca/ca.crt" }}{{ end -}}
{{- toJson $server -}}
{{- end -}}

{{- /* Arguments of `markread token`, in JSON: takes (list $ "user"). */ -}}
{{- define "markread.testSign" -}}
{{- $sign := list (printf "--user=%s" (index . 1)) "--jwt-secret-file=/etc/markread/jwt-secret/secret" "--output=/token/token" -}}
{{- with (index . 0).Values.auth.jwt.issuer }}{{ $sign = append $sign (printf "--jwt-issuer=%s" .) }}{{ end -}}
{{- with (index . 0).Values.auth.jwt.audience }}{{ $sign = append $sign (printf "--jwt-audience=%s" .) }}{{ end -}}
{{- toJson $sign -}}
{{- end -}}

{{- /* A container of the test: takes (list $ "name" "command of markread" arguments). */ -}}
{{- define "markread.testContainer" -}}
{{- $root := index . 0 -}}
{{- $files := include "markread.testFiles" $root | fromYamlArray -}}
{{- $folders := ternary (list "token") list (eq (include "markread.testWay" $root) "signed") -}}
{{- include "markread.runOnce" (concat . (list $files $folders list)) -}}
{{- end -}}

{{- /*
A container that runs a command and ends: takes (list $ "name" "command of markread" arguments files folders env), with
the Secrets that it reads as files, the names of volumes that are mounted at /<name>, and its environment.
*/ -}}
{{- define "markread.runOnce" -}}
{{- $root := index . 0 -}}
- name: {{ index . 1 }}
  image: {{ include "markread.image" (list $root.Values.image $root.Chart.AppVersion) | quote }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  command: [/markread, {{ index . 2 }}]
  args: {{ index . 3 | toJson }}
  {{- with index . 6 }}
  env:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $root.Values.securityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  terminationMessagePolicy: FallbackToLogsOnError
  {{- if or (index . 4) (index . 5) }}
  volumeMounts:
    {{- range index . 4 }}
    {{- include "markread.secretMount" . | nindent 4 }}
    {{- end }}
    {{- range index . 5 }}
    - name: {{ . }}
      mountPath: /{{ . }}
    {{- end }}
  {{- end }}
{{- end -}}
