{{- define "markread.relayName" -}}
{{ include "markread.fullname" . }}-relay
{{- end -}}

{{- /* Name of the pod of `helm test` that receives, and of its Service. */ -}}
{{- define "markread.relayTestName" -}}
{{ include "markread.fullname" . }}-test-relay
{{- end -}}

{{- /* The relay's user of Redis, as markread.redisFiles takes it, in JSON: one of its own, else that of the server. */ -}}
{{- define "markread.relayLogin" -}}
{{- $login := pick .Values.redis "existingSecret" "secretKeys" -}}
{{- with .Values.relay.redis -}}
  {{- if .existingSecret -}}
    {{- $login = dict "existingSecret" .existingSecret "secretKeys" .secretKeys "volume" "relay-redis" -}}
  {{- end -}}
{{- end -}}
{{- set $login "embeddedUser" "markread-relay" | toJson -}}
{{- end -}}

{{- /* The webhooks of the values, in JSON, each with its `secretKeys`, and that of `helm test`. */ -}}
{{- define "markread.webhooks" -}}
{{- $webhooks := list -}}
{{- range .Values.relay.webhooks -}}
  {{- $keys := merge (dict) (.secretKeys | default dict) (dict "secret" "secret") -}}
  {{- $webhooks = append $webhooks (merge (dict "secretKeys" $keys) .) -}}
{{- end -}}
{{- if .Values.relay.test.enabled -}}
  {{- $url := printf "http://%s.%s.svc:8080/" (include "markread.relayTestName" .) .Release.Namespace -}}
  {{- $keys := dict "secret" "helm-test" -}}
  {{- $own := dict "name" "helm-test" "url" $url "existingSecret" (include "markread.relayName" .) "secretKeys" $keys -}}
  {{- $webhooks = append $webhooks $own -}}
{{- end -}}
{{- toJson $webhooks -}}
{{- end -}}

{{- /* Key in the values: member of the file, name of the file beside it. */ -}}
{{- define "markread.webhookFiles" -}}
secret: {member: secret_file, path: secret}
previousSecret: {member: previous_secret_file, path: previous-secret}
standardSecret: {member: standard_secret_file, path: standard-secret}
ca: {member: ca_file, path: ca.crt}
certificate: {member: cert_file, path: tls.crt}
key: {member: key_file, path: tls.key}
{{- end -}}

{{- /* The file with the webhooks. A text in JSON is one in TOML. */ -}}
{{- define "markread.webhooksToml" -}}
{{- $files := include "markread.webhookFiles" . | fromYaml -}}
{{- range include "markread.webhooks" . | fromJsonArray }}
{{- $webhook := . }}
[[webhook]]
name = {{ .name | toJson }}
url = {{ .url | toJson }}
{{- with .users }}
users = {{ . | toJson }}
{{- end }}
{{- if .echo }}
echo = true
{{- end }}
{{- with .proxy }}
proxy = {{ . | toJson }}
{{- end }}
{{- range $key, $file := $files }}
{{- if get $webhook.secretKeys $key }}
{{ $file.member }} = {{ printf "secrets/%s/%s" $webhook.name $file.path | toJson }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- /*
The volume with that file and what it names beside it. All of it changes at once, and the relay reads it again: no
checksum in the pods' annotations, and no restart.
*/ -}}
{{- define "markread.webhooksVolume" -}}
- name: webhooks
{{- with .Values.relay }}
{{- if .existingSecret }}
  secret:
    secretName: {{ .existingSecret | quote }}
    defaultMode: 0440
{{- else }}
  projected:
    defaultMode: 0440
    sources:
      - secret:
          name: {{ include "markread.relayName" $ | quote }}
          items:
            - key: webhooks.toml
              path: webhooks.toml
      {{- $files := include "markread.webhookFiles" $ | fromYaml }}
      {{- range include "markread.webhooks" $ | fromJsonArray }}
      {{- $webhook := . }}
      - secret:
          name: {{ .existingSecret | quote }}
          items:
            {{- range $key, $file := $files }}
            {{- with get $webhook.secretKeys $key }}
            - key: {{ . | quote }}
              path: {{ printf "secrets/%s/%s" $webhook.name $file.path | quote }}
            {{- end }}
            {{- end }}
      {{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* The Secrets that the relay reads beside that volume, a list as of markread.secretFiles. */ -}}
{{- define "markread.relayFiles" -}}
{{- include "markread.redisFiles" (list . (include "markread.relayLogin" . | fromJson)) -}}
{{- end -}}

{{- /* The environment variables of the connection to Redis, of the relay and of `markread webhook`. */ -}}
{{- define "markread.relayRedisEnv" -}}
{{- include "markread.redisEnv" (list . (include "markread.relayLogin" . | fromJson)) }}
{{- include "markread.filesEnv" (include "markread.relayFiles" . | fromYamlArray) }}
{{- end -}}

{{- /* The environment variables that the chart sets for the relay. */ -}}
{{- define "markread.relayEnv" -}}
- name: MARKREAD_WEBHOOKS
  value: {{ printf "/etc/markread/webhooks/%s" (ternary .Values.relay.secretKeys.webhooks "webhooks.toml" (ne .Values.relay.existingSecret "")) | quote }}
- name: MARKREAD_OPS_LISTEN
  value: {{ printf "%s:9465" .Values.config.listenAddress | quote }}
{{- include "markread.relayRedisEnv" . }}
- name: MARKREAD_STREAM
  value: {{ .Values.config.stream | quote }}
{{- with .Values.relay.config }}
- name: MARKREAD_ALLOW_HTTP
  value: {{ .allowHttp | quote }}
- name: MARKREAD_ALLOW_PRIVATE
  value: {{ .allowPrivate | quote }}
- name: MARKREAD_CHECK_GRACE
  value: {{ .checkGrace | quote }}
- name: MARKREAD_MAX_ATTEMPTS
  value: {{ .maxAttempts | int64 | quote }}
- name: MARKREAD_MAX_AGE
  value: {{ .maxAge | quote }}
- name: MARKREAD_DEAD_LETTERS_MAXLEN
  value: {{ .deadLettersMaxlen | int64 | quote }}
- name: MARKREAD_CONCURRENCY
  value: {{ .concurrency | int64 | quote }}
- name: MARKREAD_DRAIN
  value: {{ .drain | quote }}
- name: MARKREAD_LOG_FORMAT
  value: {{ .logFormat }}
- name: RUST_LOG
  value: {{ .logLevel }}
{{- end }}
{{- include "markread.tracingEnv" . }}
{{- end -}}

{{- /*
Addresses that receivers have outside of the cluster and of private networks: the relay itself checks them one by one
(`--allow-private`).
*/ -}}
{{- define "markread.publicPeers" -}}
- ipBlock:
    cidr: 0.0.0.0/0
    except:
      - 0.0.0.0/8
      - 10.0.0.0/8
      - 100.64.0.0/10
      - 127.0.0.0/8
      - 168.63.129.16/32
      - 169.254.0.0/16
      - 172.16.0.0/12
      - 192.0.0.0/24
      - 192.168.0.0/16
      - 198.18.0.0/15
      - 224.0.0.0/4
      - 240.0.0.0/4
- ipBlock:
    cidr: 2000::/3
    # Teredo and 6to4, which have IPv4 addresses in them.
    except:
      - 2001::/32
      - 2002::/16
# IPv4 addresses behind NAT64, but for those above.
- ipBlock:
    cidr: 64:ff9b::/96
    except:
      - 64:ff9b::/104
      - 64:ff9b::a00:0/104
      - 64:ff9b::6440:0/106
      - 64:ff9b::7f00:0/104
      - 64:ff9b::a83f:8110/128
      - 64:ff9b::a9fe:0/112
      - 64:ff9b::ac10:0/108
      - 64:ff9b::c000:0/120
      - 64:ff9b::c0a8:0/112
      - 64:ff9b::c612:0/111
      - 64:ff9b::e000:0/100
      - 64:ff9b::f000:0/100
{{- end -}}

{{- /* Port of an http:// or https:// URL: takes the URL. */ -}}
{{- define "markread.httpPort" -}}
{{- include "markread.port" (list . (ternary 443 80 (hasPrefix "https://" .))) -}}
{{- end -}}

{{- /* Egress of the relay to receivers, and to the proxies in front of some. */ -}}
{{- define "markread.egressToReceivers" -}}
{{- $to := .Values.relay.networkPolicy.egress -}}
{{- $ports := $to.receiverPorts -}}
{{- $proxyPorts := list -}}
{{- range .Values.relay.webhooks -}}
  {{- if .proxy -}}
    {{- $proxyPorts = append $proxyPorts (include "markread.httpPort" .proxy) -}}
  {{- else -}}
    {{- $ports = append $ports (include "markread.httpPort" .url) -}}
  {{- end -}}
{{- end -}}
{{- if and .Values.relay.existingSecret (not $ports) -}}
  {{- $ports = list 443 -}}
{{- end -}}
{{- $public := ternary list (include "markread.publicPeers" . | fromYamlArray) .Values.relay.config.allowPrivate -}}
{{- with $ports }}
# Receivers
{{- include "markread.egressRule" (list . ($to.receivers | default $public)) }}
{{- end }}
{{- with $proxyPorts }}
# Proxies
{{- include "markread.egressRule" (list . ($to.proxies | default $public)) }}
{{- end }}
{{- if .Values.relay.test.enabled }}
# The receiver of `helm test`
- ports:
    - port: 8080
  to:
    - podSelector:
        matchLabels:
          {{- include "markread.selectorLabels" (list . "relay-test") | nindent 10 }}
{{- end }}
{{- end -}}
