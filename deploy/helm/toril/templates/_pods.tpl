{{/* The parts of a shape: a list of {name, component, comment, args, settings, answers}. */}}
{{- define "toril.parts" -}}
{{- $parts := list -}}
{{- if eq .Values.shape "one-process" -}}
{{- $parts = append $parts (dict "component" "all" "args" (list) "settings" .Values.all "answers" true) -}}
{{- else if or (eq .Values.shape "split") (eq .Values.shape "per-target") -}}
{{- $parts = append $parts (dict "component" "gateway" "args" (list "--role" "gateway") "settings" .Values.gateway "answers" true) -}}
{{- if eq .Values.shape "split" -}}
{{- $parts = append $parts (dict "component" "worker" "args" (list "--role" "worker") "settings" .Values.worker "answers" false) -}}
{{- else -}}
{{- range $name, $own := .Values.perTarget.targets -}}
{{- if not (hasKey ($.Values.config.targets | default dict) $name) -}}
{{- fail (printf "perTarget.targets names %s, which config.targets does not have" $name) -}}
{{- end -}}
{{- $settings := mergeOverwrite (dict "replicas" $.Values.perTarget.replicas "resources" $.Values.perTarget.resources) (deepCopy ($own | default dict)) -}}
{{- $parts = append $parts (dict "component" (printf "worker-%s" $name) "args" (list "--role" "worker" "--targets" $name) "settings" $settings "answers" false) -}}
{{- end -}}
{{- range $name, $_ := .Values.config.targets -}}
{{- if not (hasKey $.Values.perTarget.targets $name) -}}
{{- fail (printf "the shape per-target needs every target in perTarget.targets, and %s is not" $name) -}}
{{- end -}}
{{- end -}}
{{- $parts = append $parts (dict "component" "worker-queues" "args" (list "--role" "worker" "--targets" "") "settings" .Values.queues "answers" false) -}}
{{- end -}}
{{- else -}}
{{- fail (printf "shape must be one-process, split or per-target, not %q" .Values.shape) -}}
{{- end -}}
{{- dict "parts" $parts | toJson -}}
{{- end -}}

{{- define "toril.labels" -}}
app.kubernetes.io/name: toril
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}
