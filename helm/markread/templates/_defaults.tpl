{{- /*
Gives every value that is missing its default of values.yaml. helm itself drops the default of a key that is left
empty (`service:`), and has none of a new chart for `helm upgrade --reuse-values`. Every template begins with this.
The values become a copy, so that helm stores those that the user gave.
*/ -}}
{{- define "markread.defaults" -}}
{{- $values := deepCopy .Values -}}
{{- include "markread.fill" (list $values (.Files.Get "files/defaults.yaml" | fromYaml)) -}}
{{- $_ := set . "Values" $values -}}
{{- end -}}

{{- /* Sets what a map lacks to what another one has: takes (list map defaults). Unlike with `merge`, false and 0 stay. */ -}}
{{- define "markread.fill" -}}
{{- $values := index . 0 -}}
{{- range $key, $default := index . 1 -}}
  {{- $value := index $values $key -}}
  {{- if kindIs "invalid" $value -}}
    {{- $_ := set $values $key $default -}}
  {{- else if and (kindIs "map" $value) (kindIs "map" $default) -}}
    {{- include "markread.fill" (list $value $default) -}}
  {{- end -}}
{{- end -}}
{{- end -}}
