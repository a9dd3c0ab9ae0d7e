{{- /*
Threads that serve calls: as many as the CPUs of the limit, such as 1.5, 2000m, 2000000u or 2000000000n, rounded down.
*/ -}}
{{- define "markread.workerThreads" -}}
{{- with .Values.config.workerThreads -}}
{{ int64 . }}
{{- else -}}
{{- $cpu := toString (((.Values.resources).limits).cpu | default "") -}}
{{- $suffix := regexFind "[num]$" $cpu -}}
{{- $divisor := get (dict "n" 1e9 "u" 1e6 "m" 1e3) $suffix | default 1 -}}
{{- $cpus := divf (float64 (trimSuffix $suffix $cpu)) $divisor -}}
{{ min 16 (max 1 (int64 (floor $cpus))) }}
{{- end -}}
{{- end }}

{{- /* The environment variables that the chart sets. */ -}}
{{- define "markread.env" -}}
- name: MARKREAD_LISTEN
  value: {{ printf "%s:50051" .Values.config.listenAddress | quote }}
- name: MARKREAD_OPS_LISTEN
  value: {{ printf "%s:9464" .Values.config.listenAddress | quote }}
{{- include "markread.redisEnv" (list . .Values.redis) }}
{{- include "markread.filesEnv" (include "markread.secretFiles" . | fromYamlArray) }}
{{- with .Values.auth.jwt }}
{{- with .jwks.url }}
- name: MARKREAD_JWT_JWKS_URL
  value: {{ . | quote }}
{{- end }}
{{- with .issuer }}
- name: MARKREAD_JWT_ISSUER
  value: {{ . | quote }}
{{- end }}
{{- with .audience }}
- name: MARKREAD_JWT_AUDIENCE
  value: {{ . | quote }}
{{- end }}
{{- end }}
{{- with .Values.tls.trustedClients }}
- name: MARKREAD_TRUSTED_CLIENT
  value: {{ join "," . | quote }}
{{- end }}
{{- with .Values.config }}
{{- with .publicUrls }}
- name: MARKREAD_PUBLIC_URL
  value: {{ join "," . | quote }}
{{- end }}
- name: MARKREAD_RATE_LIMIT
  value: {{ .rateLimit | int64 | quote }}
- name: MARKREAD_RATE_WINDOW
  value: {{ .rateWindow | quote }}
- name: MARKREAD_READ_RATE_LIMIT
  value: {{ .readRateLimit | int64 | quote }}
- name: MARKREAD_EDGE_RATE
  value: {{ .edgeRate | int64 | quote }}
- name: MARKREAD_EDGE_BURST
  value: {{ .edgeBurst | int64 | quote }}
- name: MARKREAD_READER_CONCURRENCY
  value: {{ .readerConcurrency | int64 | quote }}
- name: MARKREAD_CALL_TIMEOUT
  value: {{ .callTimeout | quote }}
- name: MARKREAD_STREAM
  value: {{ .stream | quote }}
- name: MARKREAD_STREAM_MAXLEN
  value: {{ .streamMaxlen | int64 | quote }}
{{- with .streamMaxBytes }}
- name: MARKREAD_STREAM_MAX_BYTES
  value: {{ . | quote }}
{{- end }}
- name: MARKREAD_USER_KEY_PREFIX
  value: {{ .userKeyPrefix | quote }}
- name: MARKREAD_USER_OBJECT_MAX_BYTES
  value: {{ .userObjectMaxBytes | int64 | quote }}
- name: MARKREAD_REPLICAS_ACK
  value: {{ .replicasAck | int64 | quote }}
- name: MARKREAD_FSYNC_ACK
  value: {{ .fsyncAck | quote }}
- name: MARKREAD_REPLICAS_ACK_TIMEOUT
  value: {{ .replicasAckTimeout | quote }}
- name: MARKREAD_WORKER_THREADS
  value: {{ include "markread.workerThreads" $ | quote }}
- name: MARKREAD_MAX_CONNECTIONS
  value: {{ .maxConnections | int64 | quote }}
- name: MARKREAD_MAX_CONNECTIONS_PER_PEER
  value: {{ ternary .maxConnections .maxConnectionsPerPeer .behindProxy | int64 | quote }}
- name: MARKREAD_MAX_CONCURRENT_STREAMS
  value: {{ .maxConcurrentStreams | int64 | quote }}
- name: MARKREAD_HANDSHAKE_TIMEOUT
  value: {{ .handshakeTimeout | quote }}
- name: MARKREAD_KEEPALIVE_INTERVAL
  value: {{ .keepaliveInterval | quote }}
- name: MARKREAD_KEEPALIVE_TIMEOUT
  value: {{ .keepaliveTimeout | quote }}
- name: MARKREAD_MAX_CONNECTION_AGE
  value: {{ .maxConnectionAge | quote }}
- name: MARKREAD_MAX_CONNECTION_AGE_GRACE
  value: {{ .maxConnectionAgeGrace | quote }}
- name: MARKREAD_IDLE_TIMEOUT
  value: {{ .idleTimeout | quote }}
- name: MARKREAD_HTTP_IDLE_TIMEOUT
  value: {{ .httpIdleTimeout | quote }}
- name: MARKREAD_SEND_TIMEOUT
  value: {{ .sendTimeout | quote }}
{{- with .memoryLimit }}
- name: MARKREAD_MEMORY_LIMIT
  value: {{ . | quote }}
{{- end }}
- name: MARKREAD_REFLECTION
  value: {{ .reflection | quote }}
- name: MARKREAD_DRAIN_DELAY
  value: {{ .drainDelay | quote }}
- name: MARKREAD_DRAIN
  value: {{ .drain | quote }}
- name: MARKREAD_LOG_FORMAT
  value: {{ .logFormat }}
- name: RUST_LOG
  value: {{ .logLevel }}
{{- end }}
{{- include "markread.tracingEnv" . }}
{{- end -}}

{{- /* Those of the connection to Redis: takes (list $ login), see markread.redisFiles. */ -}}
{{- define "markread.redisEnv" -}}
{{- $login := index . 1 -}}
{{- with index . 0 }}
- name: MARKREAD_REDIS_MODE
  value: {{ .Values.redis.mode }}
- name: MARKREAD_REDIS_URL
  value: {{ include "markread.redisUrls" . | fromJsonArray | join "," | quote }}
{{- with .Values.redis }}
{{- with .partitions }}
- name: MARKREAD_PARTITIONS
  value: {{ int . | quote }}
{{- end }}
{{- with .sentinel.master }}
- name: MARKREAD_REDIS_SENTINEL_MASTER
  value: {{ . | quote }}
{{- end }}
{{- with .sentinel }}
{{- if and .existingSecret .secretKeys.username }}
- name: MARKREAD_REDIS_SENTINEL_USERNAME
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret | quote }}
      key: {{ .secretKeys.username | quote }}
{{- end }}
{{- end }}
{{- if .embedded.enabled }}
- name: MARKREAD_REDIS_USERNAME
  value: {{ $login.embeddedUser | default "markread" }}
{{- else if and $login.existingSecret $login.secretKeys.username }}
- name: MARKREAD_REDIS_USERNAME
  valueFrom:
    secretKeyRef:
      name: {{ $login.existingSecret | quote }}
      key: {{ $login.secretKeys.username | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* Those that name files: takes a list as of markread.secretFiles. */ -}}
{{- define "markread.filesEnv" -}}
{{- range . }}
{{- $name := .name }}
{{- range .items }}
- name: {{ .env }}
  value: /etc/markread/{{ $name }}/{{ .path }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* Those of traces. */ -}}
{{- define "markread.tracingEnv" -}}
{{- with .Values.tracing }}
{{- if .endpoint }}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ .endpoint | quote }}
- name: OTEL_TRACES_SAMPLER
  value: {{ .sampler }}
- name: OTEL_TRACES_SAMPLER_ARG
  value: {{ .samplerArg | quote }}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: {{ include "markread.resourceAttributes" $ | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* Resource attributes of spans, values percent-encoded as OpenTelemetry requires. */ -}}
{{- define "markread.resourceAttributes" -}}
k8s.namespace.name={{ .Release.Namespace }},k8s.pod.name=$(POD_NAME)
{{- range $name, $value := .Values.tracing.resourceAttributes }},{{ $name }}={{ $value | urlquery | replace "+" "%20" }}{{ end -}}
{{- end -}}
