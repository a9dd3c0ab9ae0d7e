{{- /*
The Secrets that the server reads as files: a list of
  name   of the volume, mounted at /etc/markread/<name>
  secret its Secret
  items  key there, name of the file here, and the variable that names the file to the server
  once   whether the server reads any of it at its start only, so that a change has to roll the
         pods
*/ -}}
{{- define "markread.secretFiles" -}}
{{- with .Values.auth.jwt.secret }}{{ if .existingSecret }}
- name: jwt-secret
  secret: {{ .existingSecret | quote }}
  once: true
  items:
    - {key: {{ .secretKeys.secret | quote }}, path: secret, env: MARKREAD_JWT_SECRET_FILE}
{{- end }}{{ end }}
{{- with .Values.auth.jwt.publicKey }}{{ if .existingSecret }}
- name: jwt-public-key
  secret: {{ .existingSecret | quote }}
  once: true
  items:
    - {key: {{ .secretKeys.publicKey | quote }}, path: public-key.pem, env: MARKREAD_JWT_PUBLIC_KEY_FILE}
{{- end }}{{ end }}
{{- with .Values.auth.oauth1 }}{{ if .existingSecret }}
- name: oauth1
  secret: {{ .existingSecret | quote }}
  once: false
  items:
    - {key: {{ .secretKeys.credentials | quote }}, path: credentials.toml, env: MARKREAD_OAUTH1_CREDENTIALS_FILE}
{{- end }}{{ end }}
{{- with .Values.tls }}{{ if .existingSecret }}
- name: tls
  secret: {{ .existingSecret | quote }}
  once: false
  items:
    - {key: {{ .secretKeys.certificate | quote }}, path: tls.crt, env: MARKREAD_TLS_CERT}
    - {key: {{ .secretKeys.key | quote }}, path: tls.key, env: MARKREAD_TLS_KEY}
{{- end }}{{ end }}
{{- with .Values.tls.clientCA }}{{ if .existingSecret }}
- name: client-ca
  secret: {{ .existingSecret | quote }}
  once: false
  items:
    - {key: {{ .secretKeys.ca | quote }}, path: ca.crt, env: MARKREAD_CLIENT_CA}
{{- end }}{{ end }}
{{- include "markread.redisFiles" (list . .Values.redis) }}
{{- end -}}

{{- /*
Of these, the Secrets of the connection to Redis: takes (list $ login), as does markread.redisEnv. The login has the
`existingSecret` and `secretKeys` of the user: `redis` itself, or what markread.relayLogin returns.
*/ -}}
{{- define "markread.redisFiles" -}}
{{- $login := index . 1 -}}
{{- with index . 0 -}}
{{- if .Values.redis.embedded.enabled }}
- name: redis
  secret: {{ include "markread.redisName" . }}
  once: false
  items:
    - {key: password, path: password, env: MARKREAD_REDIS_PASSWORD_FILE}
{{- else }}{{ with $login }}{{ if .existingSecret }}
- name: {{ .volume | default "redis" }}
  secret: {{ .existingSecret | quote }}
  once: {{ ne .secretKeys.username "" }} # The user name is in the environment.
  items:
    - {key: {{ .secretKeys.password | quote }}, path: password, env: MARKREAD_REDIS_PASSWORD_FILE}
{{- end }}{{ end }}{{ end }}
{{- with .Values.redis.tls.ca }}{{ if .existingSecret }}
- name: redis-ca
  secret: {{ .existingSecret | quote }}
  once: false
  items:
    - {key: {{ .secretKeys.ca | quote }}, path: ca.crt, env: MARKREAD_REDIS_CA}
{{- end }}{{ end }}
{{- with .Values.redis.tls.certificate }}{{ if .existingSecret }}
- name: redis-certificate
  secret: {{ .existingSecret | quote }}
  once: false
  items:
    - {key: {{ .secretKeys.certificate | quote }}, path: tls.crt, env: MARKREAD_REDIS_CERT}
    - {key: {{ .secretKeys.key | quote }}, path: tls.key, env: MARKREAD_REDIS_KEY}
{{- end }}{{ end }}
{{- with .Values.redis.sentinel }}{{ if .existingSecret }}
- name: sentinel
  secret: {{ .existingSecret | quote }}
  once: {{ ne .secretKeys.username "" }} # The user name is in the environment.
  items:
    - {key: {{ .secretKeys.password | quote }}, path: password, env: MARKREAD_REDIS_SENTINEL_PASSWORD_FILE}
{{- end }}{{ end }}
{{- with .Values.redis.sentinel.tls.ca }}{{ if .existingSecret }}
- name: sentinel-ca
  secret: {{ .existingSecret | quote }}
  once: false
  items:
    - {key: {{ .secretKeys.ca | quote }}, path: ca.crt, env: MARKREAD_REDIS_SENTINEL_CA}
{{- end }}{{ end }}
{{- with .Values.redis.sentinel.tls.certificate }}{{ if .existingSecret }}
- name: sentinel-certificate
  secret: {{ .existingSecret | quote }}
  once: false
  items:
    - {key: {{ .secretKeys.certificate | quote }}, path: tls.crt, env: MARKREAD_REDIS_SENTINEL_CERT}
    - {key: {{ .secretKeys.key | quote }}, path: tls.key, env: MARKREAD_REDIS_SENTINEL_KEY}
{{- end }}{{ end }}
{{- end -}}
{{- end -}}

{{- /* The volume of an entry of that list. */ -}}
{{- define "markread.secretVolume" -}}
- name: {{ .name }}
  secret:
    secretName: {{ .secret | quote }}
    defaultMode: 0440
    items:
      {{- range .items }}
      - key: {{ .key | quote }}
        path: {{ .path }}
      {{- end }}
{{- end -}}

{{- /* The mount of an entry of that list. */ -}}
{{- define "markread.secretMount" -}}
- name: {{ .name }}
  mountPath: /etc/markread/{{ .name }}
  readOnly: true
{{- end -}}

{{- /*
Checksum of the Secrets that a process reads at its start only: takes (list $ files). Empty if none can be looked up.
*/ -}}
{{- define "markread.secretsChecksum" -}}
{{- $namespace := (index . 0).Release.Namespace -}}
{{- $known := list -}}
{{- range index . 1 -}}
  {{- if .once -}}
    {{- with lookup "v1" "Secret" $namespace .secret -}}
      {{- $known = append $known .data -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- with $known }}{{ toJson . | sha256sum }}{{ end -}}
{{- end -}}
