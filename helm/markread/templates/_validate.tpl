{{- /* Problems of the values, one line each, which names the value. Empty if there are none. */ -}}
{{- define "markread.problems" -}}
{{- $problems := list -}}

{{- $name := include "markread.fullname" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
  {{- $problems = append $problems (printf "the name %s, made from the release's name, cannot name a Service: it must begin with a letter and contain only lower-case letters, digits and hyphens; set fullnameOverride or choose another release name" $name) -}}
{{- end -}}

{{- with .Values.auth -}}
  {{- $jwt := list -}}
  {{- if .jwt.secret.existingSecret }}{{ $jwt = append $jwt "auth.jwt.secret.existingSecret" }}{{ end -}}
  {{- if .jwt.publicKey.existingSecret }}{{ $jwt = append $jwt "auth.jwt.publicKey.existingSecret" }}{{ end -}}
  {{- if .jwt.jwks.url }}{{ $jwt = append $jwt "auth.jwt.jwks.url" }}{{ end -}}
  {{- if gt (len $jwt) 1 -}}
    {{- $problems = append $problems (printf "%s verify the same tokens: set only one of them" (join " and " $jwt)) -}}
  {{- end -}}
  {{- if not (or $jwt .oauth1.existingSecret $.Values.tls.trustedClients) -}}
    {{- $problems = append $problems "no way to authenticate callers is set: set auth.jwt.secret.existingSecret, auth.jwt.publicKey.existingSecret, auth.jwt.jwks.url, auth.oauth1.existingSecret or tls.trustedClients" -}}
  {{- end -}}
  {{- if not $jwt -}}
    {{- if .jwt.issuer }}{{ $problems = append $problems "auth.jwt.issuer needs auth.jwt.secret, auth.jwt.publicKey or auth.jwt.jwks: set one of them too" }}{{ end -}}
    {{- if .jwt.audience }}{{ $problems = append $problems "auth.jwt.audience needs auth.jwt.secret, auth.jwt.publicKey or auth.jwt.jwks: set one of them too" }}{{ end -}}
  {{- end -}}
  {{- if and $.Values.config.publicUrls (not .oauth1.existingSecret) -}}
    {{- $problems = append $problems "config.publicUrls needs auth.oauth1.existingSecret: set it too" -}}
  {{- end -}}
{{- end -}}

{{- with .Values.tls -}}
  {{- if and .trustedClients (not .clientCA.existingSecret) -}}
    {{- $problems = append $problems "tls.trustedClients needs tls.clientCA.existingSecret: without it no client's certificate is verified" -}}
  {{- end -}}
  {{- if and .clientCA.existingSecret (not .existingSecret) -}}
    {{- $problems = append $problems "tls.clientCA.existingSecret needs tls.existingSecret: client certificates come with TLS" -}}
  {{- end -}}
{{- end -}}

{{- with .Values.redis -}}
  {{- $one := eq .mode "standalone" -}}
  {{- $what := ternary "the Sentinels" "some nodes of the cluster" (eq .mode "sentinel") -}}
  {{- if and .embedded.enabled (not $one) -}}
    {{- $problems = append $problems (printf "redis.embedded.enabled runs one Valkey, and redis.mode is %s: turn it off, or set redis.mode to standalone" .mode) -}}
  {{- end -}}
  {{- if and .embedded.enabled .url -}}
    {{- $problems = append $problems "redis.embedded.enabled and redis.url name two Redis: set only one of them" -}}
  {{- else if and .url (not $one) -}}
    {{- $problems = append $problems (printf "redis.url names one Redis, and redis.mode is %s: set redis.urls, %s, instead" .mode $what) -}}
  {{- else if and $one (not (or .embedded.enabled .url)) -}}
    {{- $problems = append $problems "no Redis is set: set redis.url, or redis.embedded.enabled for evaluation" -}}
  {{- end -}}
  {{- if and $one .urls -}}
    {{- $problems = append $problems "redis.urls needs redis.mode sentinel or cluster: with standalone set redis.url" -}}
  {{- else if not (or $one .urls .embedded.enabled) -}}
    {{- $problems = append $problems (printf "redis.mode %s needs redis.urls: set the URLs of %s" .mode $what) -}}
  {{- end -}}
  {{- $schemes := dict -}}{{- $databases := dict -}}
  {{- range .urls -}}
    {{- $url := urlParse . -}}
    {{- $_ := set $schemes $url.scheme true -}}
    {{- $_ := set $databases (trimPrefix "/" $url.path | default "0") true -}}
    {{- if and (eq $.Values.redis.mode "sentinel") (not (regexMatch ":[0-9]+$" $url.host)) -}}
      {{- $problems = append $problems "redis.urls has a Sentinel without a port: add it, as in :26379, since it would be 6379" -}}
    {{- end -}}
  {{- end -}}
  {{- if gt (len $schemes) 1 -}}
    {{- $problems = append $problems "redis.urls has two schemes: all must begin with redis://, or all with rediss://" -}}
  {{- end -}}
  {{- if gt (len $databases) 1 -}}
    {{- $problems = append $problems "redis.urls has several databases: they must be the same" -}}
  {{- else if and (eq .mode "cluster") .urls (not (hasKey $databases "0")) -}}
    {{- $problems = append $problems "redis.urls has a database, and redis.mode is cluster: a cluster has only database 0" -}}
  {{- end -}}
  {{- range $name, $urls := dict "redis.url" (list .url) "redis.urls" .urls -}}
    {{- if regexMatch "(^|,)[a-z]+://[^/,]*@|[?&](user|pass)=" (join "," $urls) -}}
      {{- $problems = append $problems (printf "%s contains a user or a password, which everyone could read in the Deployment: put them into a Secret and set %s" $name (ternary "redis.sentinel.existingSecret" "redis.existingSecret" (eq $.Values.redis.mode "sentinel"))) -}}
    {{- end -}}
  {{- end -}}
  {{- if and .partitions (ne .mode "cluster") -}}
    {{- $problems = append $problems (printf "redis.partitions needs redis.mode cluster, which is %s: leave it empty" .mode) -}}
  {{- end -}}
  {{- if and .embedded.enabled $.Values.config.replicasAck -}}
    {{- $problems = append $problems "config.replicasAck waits for a replica, and redis.embedded.enabled has none: set it to 0" -}}
  {{- end -}}
  {{- if and .embedded.enabled .existingSecret -}}
    {{- $problems = append $problems "redis.existingSecret has no effect with redis.embedded.enabled, which has a password of its own: set only one of them" -}}
  {{- end -}}
  {{- $tls := hasPrefix "rediss://" (ternary .url (first (append .urls "")) $one) -}}
  {{- range $name, $secret := dict "redis.tls.ca.existingSecret" .tls.ca.existingSecret "redis.tls.certificate.existingSecret" .tls.certificate.existingSecret -}}
    {{- if and $secret (not $tls) (ne $.Values.redis.mode "sentinel") -}}
      {{- $problems = append $problems (printf "%s needs TLS: set a %s that begins with rediss://" $name (ternary "redis.url" "redis.urls" $one)) -}}
    {{- end -}}
  {{- end -}}
  {{- with .sentinel -}}
    {{- $secrets := dict "redis.sentinel.existingSecret" .existingSecret "redis.sentinel.tls.ca.existingSecret" .tls.ca.existingSecret "redis.sentinel.tls.certificate.existingSecret" .tls.certificate.existingSecret -}}
    {{- if eq $.Values.redis.mode "sentinel" -}}
      {{- if not .master -}}
        {{- $problems = append $problems "redis.mode sentinel needs redis.sentinel.master: set the master's name in the Sentinels' configuration" -}}
      {{- end -}}
    {{- else -}}
      {{- $secrets = set $secrets "redis.sentinel.master" .master -}}
    {{- end -}}
    {{- range $name, $value := $secrets -}}
      {{- if and $value (ne $.Values.redis.mode "sentinel") -}}
        {{- $problems = append $problems (printf "%s needs redis.mode sentinel, which is %s" $name $.Values.redis.mode) -}}
      {{- else if and $value (contains ".tls." $name) (not $tls) -}}
        {{- $problems = append $problems (printf "%s needs TLS: set redis.urls that begin with rediss://" $name) -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
{{- end -}}

{{- range $config, $settings := dict "config" .Values.config "relay.config" .Values.relay.config -}}
  {{- range $name, $value := $settings -}}
    {{- if and (kindIs "string" $value) (regexMatch "^([0-9]+(ms|s|m|h))+$" $value) -}}
      {{- if gt (include "markread.milliseconds" $value | int64) 31536000000 -}}
        {{- $problems = append $problems (printf "%s.%s must be at most 8760h, got %s" $config $name $value) -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
{{- end -}}

{{- with .Values.config -}}
  {{- $ackTimeout := include "markread.milliseconds" .replicasAckTimeout | int64 -}}
  {{- if and (or .replicasAck .fsyncAck) (ge $ackTimeout (include "markread.milliseconds" .callTimeout | int64)) -}}
    {{- $problems = append $problems (printf "config.replicasAckTimeout %s must be shorter than config.callTimeout %s" .replicasAckTimeout .callTimeout) -}}
  {{- end -}}
{{- end -}}

{{- range $name, $budget := dict "podDisruptionBudget" .Values.podDisruptionBudget "relay.podDisruptionBudget" .Values.relay.podDisruptionBudget -}}
  {{- if and .enabled (ne (toString .minAvailable) "") (ne (toString .maxUnavailable) "") -}}
    {{- $problems = append $problems (printf "%s.minAvailable and %s.maxUnavailable are both set: set only one of them" $name $name) -}}
  {{- end -}}
{{- end -}}

{{- with .Values.autoscaling -}}
  {{- if .enabled -}}
    {{- if gt (int .minReplicas) (int .maxReplicas) -}}
      {{- $problems = append $problems "autoscaling.minReplicas must not exceed autoscaling.maxReplicas" -}}
    {{- end -}}
    {{- if not (or .targetCPUUtilizationPercentage .calls.enabled) -}}
      {{- $problems = append $problems "autoscaling.enabled has nothing to scale on: set autoscaling.targetCPUUtilizationPercentage or autoscaling.calls.enabled" -}}
    {{- end -}}
    {{- $resources := $.Values.resources | default dict -}}
    {{- if and .targetCPUUtilizationPercentage (not (or (dig "requests" "cpu" "" $resources) (dig "limits" "cpu" "" $resources))) -}}
      {{- $problems = append $problems "autoscaling.targetCPUUtilizationPercentage is a percentage of resources.requests.cpu: set that too" -}}
    {{- end -}}
  {{- end -}}
{{- end -}}

{{- if and .Values.grpcRoute.enabled (not .Values.grpcRoute.parentRefs) -}}
  {{- $problems = append $problems "grpcRoute.enabled needs grpcRoute.parentRefs: set the gateways that the route belongs to" -}}
{{- end -}}

{{- $problems = concat $problems (include "markread.relayProblems" . | fromJsonArray) -}}

{{- $set := list -}}
{{- range include "markread.env" . | fromYamlArray }}{{ $set = append $set .name }}{{ end -}}
{{- range .Values.extraEnv -}}
  {{- if has .name $set -}}
    {{- $problems = append $problems (printf "extraEnv contains %s, which the chart sets itself: use its value instead" .name) -}}
  {{- end -}}
{{- end -}}

{{- join "\n" $problems -}}
{{- end -}}

{{- /* Those of the relay's values, in JSON. */ -}}
{{- define "markread.relayProblems" -}}
{{- $problems := list -}}
{{- $relay := .Values.relay -}}
{{- $test := $relay.test.enabled -}}
{{- if and $test (not $relay.enabled) -}}
  {{- $problems = append $problems "relay.test.enabled needs relay.enabled: set it too" -}}
{{- end -}}
{{- if $relay.enabled -}}
  {{- if and $relay.existingSecret $relay.webhooks -}}
    {{- $problems = append $problems "relay.existingSecret and relay.webhooks are two lists of webhooks: set only one of them" -}}
  {{- else if not (or $relay.existingSecret $relay.webhooks $test) -}}
    {{- $problems = append $problems "relay.enabled has nobody to deliver to: set relay.webhooks or relay.existingSecret" -}}
  {{- end -}}

  {{- $names := list -}}
  {{- range $relay.webhooks -}}
    {{- if has .name $names -}}
      {{- $problems = append $problems (printf "relay.webhooks has two webhooks named %s: give each a name of its own" .name) -}}
    {{- end -}}
    {{- $names = append $names .name -}}
    {{- if and (hasPrefix "http://" .url) (not $relay.config.allowHttp) -}}
      {{- $problems = append $problems (printf "relay.webhooks: the url of %s begins with http://: use https://, or set relay.config.allowHttp" .name) -}}
    {{- end -}}
    {{- $keys := .secretKeys | default dict -}}
    {{- if ne (empty $keys.certificate) (empty $keys.key) -}}
      {{- $problems = append $problems (printf "relay.webhooks: secretKeys.certificate and secretKeys.key of %s are a pair: set both of them" .name) -}}
    {{- end -}}
  {{- end -}}

  {{- if and .Values.redis.embedded.enabled $relay.redis.existingSecret -}}
    {{- $problems = append $problems "relay.redis.existingSecret has no effect with redis.embedded.enabled, which has a user for the relay: set only one of them" -}}
  {{- end -}}

  {{- if $test -}}
    {{- if $relay.existingSecret -}}
      {{- $problems = append $problems "relay.test.enabled adds a webhook to relay.webhooks, which relay.existingSecret replaces: set only one of them" -}}
    {{- end -}}
    {{- if has "helm-test" $names -}}
      {{- $problems = append $problems "relay.webhooks has a webhook named helm-test, which relay.test.enabled adds: give it another name" -}}
    {{- end -}}
    {{- range list "allowHttp" "allowPrivate" -}}
      {{- if not (get $relay.config .) -}}
        {{- $problems = append $problems (printf "relay.test.enabled delivers over plain HTTP inside the cluster, which relay.config.%s forbids to every webhook: set it to true where that is no risk, or test elsewhere" .) -}}
      {{- end -}}
    {{- end -}}
    {{- if not .Values.auth.jwt.secret.existingSecret -}}
      {{- $problems = append $problems "relay.test.enabled needs auth.jwt.secret.existingSecret: the test signs a token with it" -}}
    {{- end -}}
  {{- end -}}

  {{- $set := list -}}
  {{- range include "markread.relayEnv" . | fromYamlArray }}{{ $set = append $set .name }}{{ end -}}
  {{- range $relay.extraEnv -}}
    {{- if has .name $set -}}
      {{- $problems = append $problems (printf "relay.extraEnv contains %s, which the chart sets itself: use its value instead" .name) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- toJson $problems -}}
{{- end -}}
