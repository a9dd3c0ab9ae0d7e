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
  {{- if and .embedded.enabled .url -}}
    {{- $problems = append $problems "redis.embedded.enabled and redis.url name two Redis: set only one of them" -}}
  {{- else if not (or .embedded.enabled .url) -}}
    {{- $problems = append $problems "no Redis is set: set redis.url, or redis.embedded.enabled for evaluation" -}}
  {{- end -}}
  {{- if regexMatch "^[a-z]+://[^/]*@|[?&](user|pass)=" .url -}}
    {{- $problems = append $problems "redis.url contains a user or a password, which everyone could read in the Deployment: put them into a Secret and set redis.existingSecret" -}}
  {{- end -}}
  {{- if and .embedded.enabled .existingSecret -}}
    {{- $problems = append $problems "redis.existingSecret has no effect with redis.embedded.enabled, which has a password of its own: set only one of them" -}}
  {{- end -}}
  {{- range $name, $secret := dict "redis.tls.ca.existingSecret" .tls.ca.existingSecret "redis.tls.certificate.existingSecret" .tls.certificate.existingSecret -}}
    {{- if and $secret (not (hasPrefix "rediss://" $.Values.redis.url)) -}}
      {{- $problems = append $problems (printf "%s needs TLS: set a redis.url that begins with rediss://" $name) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}

{{- with .Values.config -}}
  {{- range $name, $value := . -}}
    {{- if and (kindIs "string" $value) (regexMatch "^([0-9]+(ms|s|m|h))+$" $value) -}}
      {{- if gt (include "markread.milliseconds" $value | int64) 31536000000 -}}
        {{- $problems = append $problems (printf "config.%s must be at most 8760h, got %s" $name $value) -}}
      {{- end -}}
    {{- end -}}
  {{- end -}}
  {{- $ackTimeout := include "markread.milliseconds" .replicasAckTimeout | int64 -}}
  {{- if and .replicasAck (ge $ackTimeout (include "markread.milliseconds" .callTimeout | int64)) -}}
    {{- $problems = append $problems (printf "config.replicasAckTimeout %s must be shorter than config.callTimeout %s" .replicasAckTimeout .callTimeout) -}}
  {{- end -}}
{{- end -}}

{{- with .Values.podDisruptionBudget -}}
  {{- if and .enabled (ne (toString .minAvailable) "") (ne (toString .maxUnavailable) "") -}}
    {{- $problems = append $problems "podDisruptionBudget.minAvailable and podDisruptionBudget.maxUnavailable are both set: set only one of them" -}}
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

{{- $set := list -}}
{{- range include "markread.env" . | fromYamlArray }}{{ $set = append $set .name }}{{ end -}}
{{- range .Values.extraEnv -}}
  {{- if has .name $set -}}
    {{- $problems = append $problems (printf "extraEnv contains %s, which the chart sets itself: use its value instead" .name) -}}
  {{- end -}}
{{- end -}}

{{- join "\n" $problems -}}
{{- end -}}
