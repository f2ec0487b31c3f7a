{{/*
The spec of a pod of the server: (dict "root" $ "name" of Deployment and ConfigMap "settings" of the colour
"labels" that select its pods, as text).
*/}}
{{- define "keywarden.pod" -}}
{{- $root := .root -}}
{{- $v := $root.Values -}}
{{- $fullname := include "keywarden.fullname" $root -}}
{{- $name := .name -}}
{{- $labels := .labels -}}
serviceAccountName: {{ include "keywarden.serviceAccountName" $root }}
automountServiceAccountToken: {{ include "keywarden.callsKubernetes" $root }}
enableServiceLinks: false
terminationGracePeriodSeconds: {{ add (int $v.shutdown.delaySeconds) (int $v.shutdown.drainSeconds) 15 }}
{{- with $v.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $v.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $v.extraInitContainers }}
initContainers:
  {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - name: keywarden
    image: {{ include "keywarden.image" (dict "root" $root "tag" .settings.tag "digest" .settings.digest) | quote }}
    {{- with $v.image.pullPolicy }}
    imagePullPolicy: {{ . }}
    {{- end }}
    args: [serve]
    {{- with $v.securityContext }}
    securityContext:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    ports:
      - {name: {{ include "keywarden.httpPort" $root }}, containerPort: 8080, protocol: TCP}
      {{- if $v.operators.enabled }}
      - {name: operators, containerPort: 9090, protocol: TCP}
      {{- end }}
    env:
      {{- include "keywarden.env" (dict "root" $root) | nindent 6 }}
      {{- if and $v.gateway.zoneFromPod (not (dig "gateway" "zone" "" $v.config)) }}
      - name: KEYWARDEN_GATEWAY_ZONE
        valueFrom: {fieldRef: {fieldPath: "metadata.labels['topology.kubernetes.io/zone']"}}
      {{- end }}
      {{- $limit := dig "limits" "memory" "" $v.resources }}
      {{- if and $limit $v.goRuntime.memoryLimitPercent }}
      - name: GOMEMLIMIT
        value: {{ include "keywarden.memoryLimit" (dict "limit" $limit "percent" $v.goRuntime.memoryLimitPercent) | quote }}
      {{- end }}
      {{- if $v.goRuntime.maxProcs }}
      - name: GOMAXPROCS
        value: {{ int $v.goRuntime.maxProcs | quote }}
      {{- end }}
      {{- with $v.extraEnv }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    {{- with $v.extraEnvFrom }}
    envFrom:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    startupProbe:
      {{- include "keywarden.probe" (dict "root" $root "path" "/healthz" "times" $v.probes.startup) | nindent 6 }}
    livenessProbe:
      {{- include "keywarden.probe" (dict "root" $root "path" "/healthz" "times" $v.probes.liveness) | nindent 6 }}
    readinessProbe:
      {{- include "keywarden.probe" (dict "root" $root "path" "/readyz" "times" $v.probes.readiness) | nindent 6 }}
    {{- with $v.resources }}
    resources:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    volumeMounts:
      - {name: config, mountPath: /etc/keywarden/config, readOnly: true}
      - {name: secrets, mountPath: /etc/keywarden/secrets, readOnly: true}
      - {name: data, mountPath: /var/lib/keywarden}
      - {name: tmp, mountPath: /tmp}
      {{- if include "keywarden.gatewayConfigMap" $root }}
      - {name: gateway, mountPath: /etc/keywarden/gateway, readOnly: true}
      {{- end }}
      {{- if $v.tls.existingSecret }}
      - {name: tls, mountPath: /etc/keywarden/tls/default, readOnly: true}
      {{- end }}
      {{- range $i, $secret := $v.tls.hostSecrets }}
      - {name: tls-{{ $i }}, mountPath: /etc/keywarden/tls/hosts/{{ $secret }}, readOnly: true}
      {{- end }}
      {{- if $v.tls.clientCA.existingSecret }}
      - {name: client-ca, mountPath: /etc/keywarden/tls/clients, readOnly: true}
      {{- end }}
      {{- with $v.extraVolumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
volumes:
  {{- include "keywarden.volumes" (dict "root" $root "config" $name "secret" $fullname) | nindent 2 }}
  - name: data
    {{- toYaml ($v.dataVolume | default (dict "emptyDir" (dict "sizeLimit" "64Mi"))) | nindent 4 }}
  - name: tmp
    emptyDir: {sizeLimit: 64Mi}
  {{- with include "keywarden.gatewayConfigMap" $root }}
  - name: gateway
    configMap:
      name: {{ . }}
      items: [{key: {{ $v.gateway.key | quote }}, path: gateway.yaml}]
  {{- end }}
  {{- with $v.tls.existingSecret }}
  - name: tls
    secret: {secretName: {{ . }}, defaultMode: 288}
  {{- end }}
  {{- range $i, $secret := $v.tls.hostSecrets }}
  - name: tls-{{ $i }}
    secret: {secretName: {{ $secret }}, defaultMode: 288}
  {{- end }}
  {{- with $v.tls.clientCA }}
  {{- if .existingSecret }}
  - name: client-ca
    secret:
      secretName: {{ .existingSecret }}
      items: [{key: {{ .existingSecretKey | quote }}, path: ca.crt}]
  {{- end }}
  {{- end }}
  {{- with $v.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- include "keywarden.placement" $root }}
{{- with $v.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $v.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  {{- $constraint := deepCopy . }}
  {{- if not .labelSelector }}{{ $_ := set $constraint "labelSelector" (dict "matchLabels" ($labels | fromYaml)) }}{{ end }}
  - {{ toYaml $constraint | indent 4 | trim }}
  {{- end }}
{{- end }}
{{- end }}

{{/* What replicas and migration have in common of where they run. */}}
{{- define "keywarden.placement" -}}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.dnsConfig }}
dnsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.hostAliases }}
hostAliases:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "keywarden.probe" -}}
httpGet:
  path: {{ .path }}
  {{- if .root.Values.operators.enabled }}
  port: operators
  {{- else }}
  port: {{ include "keywarden.httpPort" .root }}
  {{- if include "keywarden.tls" .root }}
  scheme: HTTPS
  {{- end }}
  {{- end }}
{{ toYaml .times }}
{{- end }}
