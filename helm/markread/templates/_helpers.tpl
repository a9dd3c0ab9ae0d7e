{{- define "markread.name" -}}
{{- include "markread.cut" (list (default .Chart.Name .Values.nameOverride) 46) -}}
{{- end -}}

{{- /* 46 characters leave room for suffixes: a StatefulSet adds a hash to its name, in a label. */ -}}
{{- define "markread.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $both := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- include "markread.cut" (list (default $both .Values.fullnameOverride) 46) -}}
{{- end -}}

{{- /* Cuts a name or the value of a label, which must end in a letter or a digit: takes (list "text" length). */ -}}
{{- define "markread.cut" -}}
{{- trunc (index . 1) (index . 0) | regexFind "^.*[A-Za-z0-9]" -}}
{{- end -}}

{{- define "markread.serviceAccountName" -}}
{{- $made := ternary (include "markread.fullname" .) "default" .Values.serviceAccount.create -}}
{{- default $made .Values.serviceAccount.name -}}
{{- end -}}

{{- /* Labels that select the pods of a component: takes (list $ "component"). They must never change. */ -}}
{{- define "markread.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "markread.name" $root | quote }}
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- /* Labels of an object: takes (list $ "component"). */ -}}
{{- define "markread.labels" -}}
{{- $root := index . 0 -}}
{{ include "markread.selectorLabels" . }}
app.kubernetes.io/version: {{ include "markread.cut" (list ($root.Chart.AppVersion | replace "+" "_") 63) | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/part-of: {{ include "markread.name" $root | quote }}
helm.sh/chart: {{ include "markread.cut" (list (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_") 63) }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* Labels of a pod: takes (list $ "component"). No label that changes with the chart's version, which
would roll the pods for nothing. */ -}}
{{- define "markread.podLabels" -}}
{{ include "markread.selectorLabels" . }}
{{- with (index . 0).Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* registry/repository:tag or @digest: takes (list image "default tag"). */ -}}
{{- define "markread.image" -}}
{{- $image := index . 0 -}}
{{- with $image.registry }}{{ . }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ default (index . 1) $image.tag }}{{ end -}}
{{- end -}}

{{- /* Fields of every pod of this chart. */ -}}
{{- define "markread.podDefaults" -}}
automountServiceAccountToken: {{ .Values.serviceAccount.automount }}
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* Topology spread: takes (list $ "component" constraints). One without `labelSelector` selects its pods. */ -}}
{{- define "markread.spread" -}}
{{- $own := include "markread.selectorLabels" (list (index . 0) (index . 1)) | fromYaml -}}
{{- $constraints := list -}}
{{- range index . 2 -}}
  {{- $constraint := . -}}
  {{- if not .labelSelector -}}
    {{- $constraint = merge (dict "labelSelector" (dict "matchLabels" $own)) . -}}
  {{- end -}}
  {{- $constraints = append $constraints $constraint -}}
{{- end -}}
{{- toYaml $constraints -}}
{{- end -}}

{{- /* Milliseconds of a duration such as 1m30s; values.schema.json has checked its form. */ -}}
{{- define "markread.milliseconds" -}}
{{- $units := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 -}}
{{- $sum := 0 -}}
{{- range regexFindAll "[0-9]+(ms|s|m|h)" . -1 -}}
  {{- $unit := regexFind "[a-z]+" . -}}
  {{- $sum = add $sum (mul (trimSuffix $unit . | int64) (get $units $unit)) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{- /* Some durations, rounded up to seconds, and some seconds for what follows: takes (list seconds "1m30s" …). */ -}}
{{- define "markread.gracePeriodSeconds" -}}
{{- $sum := 999 -}}
{{- range rest . }}{{ $sum = add $sum (include "markread.milliseconds" . | int64) }}{{ end -}}
{{- add (div $sum 1000) (first .) -}}
{{- end -}}

{{- define "markread.redisName" -}}
{{ include "markread.fullname" . }}-redis
{{- end -}}

{{- /* URLs of Redis, or of its Sentinels, as a JSON list. */ -}}
{{- define "markread.redisUrls" -}}
{{- $urls := .Values.redis.urls -}}
{{- if .Values.redis.embedded.enabled -}}
  {{- $urls = list (printf "redis://%s:6379" (include "markread.redisName" .)) -}}
{{- else if eq .Values.redis.mode "standalone" -}}
  {{- $urls = list .Values.redis.url -}}
{{- end -}}
{{- toJson $urls -}}
{{- end -}}

{{- /* Password of the embedded Valkey: that of the release, else a new one at each call. */ -}}
{{- define "markread.redisPassword" -}}
{{- $secret := lookup "v1" "Secret" .Release.Namespace (include "markread.redisName" .) | default dict -}}
{{- dig "data" "password" "" $secret | b64dec | default (randAlphaNum 32) -}}
{{- end -}}

{{- /* Port of a URL: takes (list "url" default). */ -}}
{{- define "markread.port" -}}
{{- $url := urlParse (index . 0) -}}
{{- regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (index . 1) -}}
{{- end -}}

{{- /* Name of the server inside the cluster, which its certificate must have. */ -}}
{{- define "markread.host" -}}
{{ include "markread.fullname" . }}.{{ .Release.Namespace }}.svc
{{- end -}}

{{- /* Egress rules that every pod with a connection to Redis needs. */ -}}
{{- define "markread.egressToRedis" -}}
{{- $out := .Values.networkPolicy.egress -}}
# DNS
- ports:
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
  {{- with $out.dns }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- if .Values.redis.embedded.enabled }}
# Redis
- ports:
    - port: 6379
  to:
    - podSelector:
        matchLabels:
          {{- include "markread.selectorLabels" (list . "redis") | nindent 10 }}
{{- else }}
{{- $ports := list }}
{{- range include "markread.redisUrls" . | fromJsonArray }}
  {{- if not (hasPrefix "unix://" .) }}{{ $ports = append $ports (include "markread.port" (list . 6379)) }}{{ end }}
{{- end }}
{{- if eq .Values.redis.mode "sentinel" }}
# Sentinels
{{- include "markread.egressRule" (list $ports $out.sentinels) }}
  {{- $ports = $out.redisPorts | default (list 6379) }}
{{- else }}
  {{- $ports = concat $ports $out.redisPorts }}
{{- end }}
{{- if $ports }}
# Redis
{{- include "markread.egressRule" (list $ports $out.redis) }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* Egress to the collector of traces, if there is one. */ -}}
{{- define "markread.egressToCollector" -}}
{{- with .Values.tracing.endpoint -}}
# OTLP
{{- include "markread.egressRule" (list (list (include "markread.port" (list . 4317))) $.Values.networkPolicy.egress.otlp) }}
{{- end -}}
{{- end -}}

{{- /* A rule of egress: takes (list ports peers). No peers: to everywhere. */ -}}
{{- define "markread.egressRule" }}
- ports:
    {{- range index . 0 | toStrings | uniq }}
    - port: {{ . }}
    {{- end }}
  {{- with index . 1 }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
