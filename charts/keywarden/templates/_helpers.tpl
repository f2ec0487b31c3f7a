{{/* Names. The longest suffix, with a colour, is 17 characters: 63 less that is 46. */}}
{{- define "keywarden.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 46 | trimSuffix "-" -}}
{{- end }}

{{- define "keywarden.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 46 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "keywarden.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 46 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 46 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "keywarden.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "keywarden.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{/* The migration runs before the objects of the release exist, so it has an account of its own. */}}
{{- define "keywarden.migrateAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- printf "%s-migrate" (include "keywarden.fullname" .) -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{/* Labels of what belongs to one component: (dict "root" $ "component" "server" "more" labels of this object). */}}
{{- define "keywarden.labels" -}}
{{- $chart := .root.Chart -}}
{{- $own := dict
    "app.kubernetes.io/version" $chart.AppVersion
    "app.kubernetes.io/part-of" "keywarden"
    "app.kubernetes.io/managed-by" .root.Release.Service
    "helm.sh/chart" (printf "%s-%s" $chart.Name $chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") -}}
{{- toYaml (merge (include "keywarden.selectorLabels" . | fromYaml) (.more | default dict) .root.Values.commonLabels $own) -}}
{{- end }}

{{/* Labels of pods: (dict "root" $ "selector" text of the labels that select them). What selects is never overridden. */}}
{{- define "keywarden.podLabels" -}}
{{- toYaml (merge (.selector | fromYaml) .root.Values.podLabels .root.Values.commonLabels) -}}
{{- end }}

{{- define "keywarden.selectorLabels" -}}
app.kubernetes.io/name: {{ include "keywarden.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* The reference of an image: (dict "root" $ "tag" "" "digest" ""); a tag of its own goes without the common digest. */}}
{{- define "keywarden.image" -}}
{{- $image := .root.Values.image -}}
{{- $digest := .digest -}}
{{- if not (or .tag .digest) }}{{ $digest = $image.digest }}{{ end -}}
{{- if $digest -}}
{{- printf "%s@%s" $image.repository $digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (.tag | default $image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end }}

{{/* Whether the main listener speaks TLS: "true" or nothing. */}}
{{- define "keywarden.tls" -}}
{{- $acme := dig "server" "tls" "acme" "domains" list .Values.config -}}
{{- if or .Values.tls.existingSecret .Values.tls.hostSecrets $acme }}true{{ end -}}
{{- end }}

{{- define "keywarden.httpPort" -}}
{{- if include "keywarden.tls" . }}https{{ else }}http{{ end -}}
{{- end }}

{{- define "keywarden.servicePort" -}}
{{- if .Values.service.port }}{{ int .Values.service.port }}{{ else if include "keywarden.tls" . }}443{{ else }}80{{ end -}}
{{- end }}

{{/* How many replicas there are to be, of all colours. */}}
{{- define "keywarden.replicas" -}}
{{- $v := .Values -}}
{{- $each := ternary $v.autoscaling.minReplicas $v.replicaCount $v.autoscaling.enabled -}}
{{- if eq $v.strategy "blueGreen" -}}
{{- $sum := 0 -}}
{{- range tuple $v.blueGreen.blue $v.blueGreen.green -}}
{{- if .enabled -}}
{{- $sum = add $sum (ternary $each .replicaCount (or $v.autoscaling.enabled (kindIs "invalid" .replicaCount)) | int) -}}
{{- end -}}
{{- end -}}
{{- $sum -}}
{{- else -}}
{{- int $each -}}
{{- end -}}
{{- end }}

{{/* keywarden.yaml: the options of config, and above them those that the chart decides. */}}
{{- define "keywarden.config" -}}
{{- $v := .root.Values -}}
{{- $tls := dict "client_auth" $v.tls.clientCA.mode -}}
{{- if $v.tls.existingSecret -}}
{{- $_ := set $tls "cert_file" "/etc/keywarden/tls/default/tls.crt" -}}
{{- $_ := set $tls "key_file" "/etc/keywarden/tls/default/tls.key" -}}
{{- end -}}
{{- if $v.tls.hostSecrets }}{{ $_ := set $tls "dir" "/etc/keywarden/tls/hosts" }}{{ end -}}
{{- if $v.tls.clientCA.existingSecret }}{{ $_ := set $tls "client_ca_file" "/etc/keywarden/tls/clients/ca.crt" }}{{ end -}}
{{- $server := dict "addr" ":8080" "tls" $tls
    "shutdown_delay" (printf "%ds" (int $v.shutdown.delaySeconds)) "drain_timeout" (printf "%ds" (int $v.shutdown.drainSeconds)) -}}
{{- if $v.operators.enabled }}{{ $_ := set $server "metrics_addr" ":9090" }}{{ end -}}
{{- $gateway := dict "source" $v.gateway.source -}}
{{- if include "keywarden.gatewayConfigMap" .root }}{{ $_ := set $gateway "file" "/etc/keywarden/gateway/gateway.yaml" }}{{ end -}}
{{- if eq $v.gateway.source "kubernetes" -}}
{{- $objects := pick $v.gateway.kubernetes "controller" "status" -}}
{{- with $v.gateway.kubernetes.addresses }}{{ $_ := set $objects "addresses" . }}{{ end -}}
{{- $_ := set $gateway "kubernetes" $objects -}}
{{- end -}}
{{- $owned := dict "server" $server "gateway" $gateway "data" (dict "dir" "/var/lib/keywarden")
    "database" (dict "migrate_on_start" (eq $v.migrations.mode "start")) -}}
{{- toYaml (mustMergeOverwrite (deepCopy $v.config) (deepCopy (.config | default dict)) $owned) -}}
{{- end }}

{{/* The ConfigMap of the gateway document, or nothing. */}}
{{- define "keywarden.gatewayConfigMap" -}}
{{- if eq .Values.gateway.source "file" -}}
{{- if .Values.gateway.existingConfigMap }}{{ .Values.gateway.existingConfigMap }}
{{- else if .Values.gateway.document }}{{ include "keywarden.fullname" . }}-gateway{{ end -}}
{{- end -}}
{{- end }}

{{/* Whether the pods call the API server, and so need a token: "true" or "false". */}}
{{- define "keywarden.callsKubernetes" -}}
{{- or .Values.discovery.kubernetes.enabled (eq .Values.gateway.source "kubernetes") -}}
{{- end }}

{{/* Whether the chart makes a GatewayClass: "true" or nothing. */}}
{{- define "keywarden.gatewayClass" -}}
{{- $classes := .Values.gateway.kubernetes.classes -}}
{{- if and (eq .Values.gateway.source "kubernetes") $classes.create -}}
{{- $there := .Capabilities.APIVersions.Has "gateway.networking.k8s.io/v1/GatewayClass" -}}
{{- if ternary $there $classes.gatewayClass (kindIs "invalid" $classes.gatewayClass) }}true{{ end -}}
{{- end -}}
{{- end }}

{{- define "keywarden.gatewayDocument" -}}
{{- if kindIs "string" .Values.gateway.document -}}
{{ .Values.gateway.document }}
{{- else -}}
{{ mustToPrettyJson .Values.gateway.document }}
{{- end -}}
{{- end }}

{{/*
The secrets that the program needs, as a YAML list of: variable (without _FILE), file, secret, key, and value
where the chart makes the secret itself. With only=database, what the migration needs.
*/}}
{{- define "keywarden.secrets" -}}
{{- $v := .root.Values -}}
{{- $own := include "keywarden.fullname" .root -}}
{{- $list := list -}}
{{- if $v.database.existingSecret -}}
{{- $list = append $list (dict "variable" "KEYWARDEN_DATABASE_URL" "file" "database-url" "secret" $v.database.existingSecret "key" $v.database.existingSecretKey) -}}
{{- else if $v.database.url -}}
{{- $list = append $list (dict "variable" "KEYWARDEN_DATABASE_URL" "file" "database-url" "value" $v.database.url) -}}
{{- else if $v.database.passwordExistingSecret -}}
{{- $list = append $list (dict "variable" "POSTGRES_PASSWORD" "file" "database-password" "secret" $v.database.passwordExistingSecret "key" $v.database.passwordExistingSecretKey) -}}
{{- else if $v.database.password -}}
{{- $list = append $list (dict "variable" "POSTGRES_PASSWORD" "file" "database-password" "value" $v.database.password) -}}
{{- end -}}
{{- if ne (.only | default "") "database" -}}
{{- if $v.masterKey.existingSecret -}}
{{- $list = append $list (dict "variable" "KEYWARDEN_SECURITY_MASTER_KEY" "file" "master-key" "secret" $v.masterKey.existingSecret "key" $v.masterKey.existingSecretKey) -}}
{{- else if $v.masterKey.value -}}
{{- $list = append $list (dict "variable" "KEYWARDEN_SECURITY_MASTER_KEY" "file" "master-key" "value" $v.masterKey.value) -}}
{{- end -}}
{{- with $v.masterKey.retired -}}
{{- if .existingSecret -}}
{{- $list = append $list (dict "variable" "KEYWARDEN_SECURITY_MASTER_KEYS_RETIRED" "file" "master-keys-retired" "secret" .existingSecret "key" .existingSecretKey) -}}
{{- else if .values -}}
{{- $list = append $list (dict "variable" "KEYWARDEN_SECURITY_MASTER_KEYS_RETIRED" "file" "master-keys-retired" "value" (join "\n" .values)) -}}
{{- end -}}
{{- end -}}
{{- if $v.redis.existingSecret -}}
{{- $list = append $list (dict "variable" "KEYWARDEN_REDIS_URL" "file" "redis-url" "secret" $v.redis.existingSecret "key" $v.redis.existingSecretKey) -}}
{{- else if $v.redis.url -}}
{{- $list = append $list (dict "variable" "KEYWARDEN_REDIS_URL" "file" "redis-url" "value" $v.redis.url) -}}
{{- end -}}
{{- if $v.smtp.existingSecret -}}
{{- $list = append $list (dict "variable" "KEYWARDEN_ALERTS_SMTP_PASSWORD" "file" "smtp-password" "secret" $v.smtp.existingSecret "key" $v.smtp.existingSecretKey) -}}
{{- else if $v.smtp.password -}}
{{- $list = append $list (dict "variable" "KEYWARDEN_ALERTS_SMTP_PASSWORD" "file" "smtp-password" "value" $v.smtp.password) -}}
{{- end -}}
{{- end -}}
{{- toYaml $list -}}
{{- end }}

{{/* The data of a Secret of the chart: (dict "root" $ "only" "database"). */}}
{{- define "keywarden.secretData" -}}
{{- range include "keywarden.secrets" . | fromYamlArray }}
{{- if .value }}
{{ .file }}: {{ .value | b64enc }}
{{- end }}
{{- end }}
{{- end }}

{{/* Variables of the program: (dict "root" $ "only" ""). */}}
{{- define "keywarden.env" -}}
{{- $v := .root.Values -}}
- name: KEYWARDEN_CONFIG
  value: /etc/keywarden/config/keywarden.yaml
{{- if and $v.database.host (not $v.database.url) (not $v.database.existingSecret) }}
- name: DB_HOST
  value: {{ $v.database.host | quote }}
- name: DB_PORT
  value: {{ int $v.database.port | quote }}
- name: DB_SSLMODE
  value: {{ $v.database.sslMode }}
- name: POSTGRES_USER
  value: {{ $v.database.user | quote }}
- name: POSTGRES_DB
  value: {{ $v.database.name | quote }}
{{- end }}
{{- range include "keywarden.secrets" . | fromYamlArray }}
- name: {{ .variable }}_FILE
  value: /etc/keywarden/secrets/{{ .file }}
{{- end }}
{{- end }}

{{/* Volumes of configuration and secrets: (dict "root" $ "only" "" "config" name of the ConfigMap "secret" name of the chart's own). */}}
{{- define "keywarden.volumes" -}}
{{- $own := .secret -}}
- name: config
  configMap:
    name: {{ .config }}
- name: secrets
  projected:
    defaultMode: 288 # 0440
    sources:
    {{- range include "keywarden.secrets" . | fromYamlArray }}
      - secret:
          name: {{ .secret | default $own }}
          items: [{key: {{ .key | default .file | quote }}, path: {{ .file }}}]
    {{- end }}
{{- end }}

{{/* Refuses values that cannot work together; the schema cannot say these. */}}
{{- define "keywarden.check" -}}
{{- $v := .Values -}}
{{- if and $v.masterKey.value $v.masterKey.existingSecret -}}
{{- fail "\n\nmasterKey.value and masterKey.existingSecret are both set: keep one of them.\n" -}}
{{- else if not (or $v.masterKey.value $v.masterKey.existingSecret) -}}
{{- fail "\n\nThe master key is missing. There is no default: make one with \"keywarden keygen\", put it into a Secret, and name that:\n\n  kubectl create secret generic keywarden-master-key --from-literal=master-key=\"$(keywarden keygen)\"\n  --set masterKey.existingSecret=keywarden-master-key\n" -}}
{{- end -}}
{{- if and $v.masterKey.retired.values $v.masterKey.retired.existingSecret -}}
{{- fail "\n\nmasterKey.retired.values and masterKey.retired.existingSecret are both set: keep one of them.\n" -}}
{{- end -}}
{{- $database := list -}}
{{- range tuple (tuple "database.url" $v.database.url) (tuple "database.existingSecret" $v.database.existingSecret) (tuple "database.host" $v.database.host) -}}
{{- if index . 1 }}{{ $database = append $database (index . 0) }}{{ end -}}
{{- end -}}
{{- if gt (len $database) 1 -}}
{{- fail (printf "\n\n%s are set together: keep one of them.\n" (join " and " $database)) -}}
{{- else if not $database -}}
{{- fail "\n\nThe database is missing. Put the URL of a PostgreSQL into a Secret, and name that:\n\n  kubectl create secret generic keywarden-database --from-literal=database-url='postgres://user:password@host:5432/keywarden?sslmode=require'\n  --set database.existingSecret=keywarden-database\n" -}}
{{- end -}}
{{- if and $v.database.password $v.database.passwordExistingSecret -}}
{{- fail "\n\ndatabase.password and database.passwordExistingSecret are both set: keep one of them.\n" -}}
{{- else if and (or $v.database.password $v.database.passwordExistingSecret) (not $v.database.host) -}}
{{- fail "\n\ndatabase.password and database.passwordExistingSecret go with database.host: a URL has the password in it.\n" -}}
{{- else if and $v.database.host (not (or $v.database.password $v.database.passwordExistingSecret)) -}}
{{- fail "\n\ndatabase.host needs database.passwordExistingSecret (or database.password). For a login without a password, give the whole URL in database.existingSecret.\n" -}}
{{- end -}}
{{- if and $v.redis.url $v.redis.existingSecret -}}
{{- fail "\n\nredis.url and redis.existingSecret are both set: keep one of them.\n" -}}
{{- end -}}
{{- if and $v.smtp.password $v.smtp.existingSecret -}}
{{- fail "\n\nsmtp.password and smtp.existingSecret are both set: keep one of them.\n" -}}
{{- end -}}
{{- if and $v.gateway.document $v.gateway.existingConfigMap -}}
{{- fail "\n\ngateway.document and gateway.existingConfigMap are both set: keep one of them.\n" -}}
{{- end -}}
{{- if and (eq $v.gateway.source "database") (or $v.gateway.document $v.gateway.existingConfigMap) -}}
{{- fail "\n\ngateway.source is database: gateway.document and gateway.existingConfigMap must be empty. Put the document there with \"keywarden config apply\".\n" -}}
{{- end -}}
{{- $classes := $v.gateway.kubernetes.classes -}}
{{- if eq $v.gateway.source "kubernetes" -}}
{{- if or $v.gateway.document $v.gateway.existingConfigMap -}}
{{- fail "\n\ngateway.source is kubernetes: gateway.document and gateway.existingConfigMap must be empty. The document is made of the objects of the cluster, and never merged with another.\n" -}}
{{- else if not (dig "server" "hosts" list $v.config) -}}
{{- fail "\n\ngateway.source is kubernetes, and config.server.hosts is empty: paths such as /users and /admin/v1 would be the platform's own on every host, and no Ingress or HTTPRoute at them would be reached. List the host names of the platform:\n\n  --set 'config.server.hosts={accounts.example.com}'\n" -}}
{{- else if eq (include "keywarden.serviceAccountName" .) "default" -}}
{{- fail "\n\ngateway.source is kubernetes: what the pods may read in every namespace would be allowed to all pods that run as the ServiceAccount default. Set serviceAccount.create to true, or serviceAccount.name to an account of their own.\n" -}}
{{- else if and $v.ingress.enabled (eq $v.ingress.className $classes.name) -}}
{{- fail (printf "\n\ningress.className is %s, the class that this release serves by itself: the gateway would lead to itself. Name the class of the proxy before it.\n" $classes.name) -}}
{{- end -}}
{{- else if $v.gateway.kubernetes.addresses -}}
{{- fail "\n\ngateway.kubernetes.addresses means nothing unless gateway.source is kubernetes.\n" -}}
{{- end -}}
{{- $redis := or $v.redis.url $v.redis.existingSecret -}}
{{- if and (not $redis) (or (eq (dig "counters" "store" "" $v.config) "redis") (eq (dig "cache" "store" "" $v.config) "redis") (dig "counters" "strict" false $v.config)) -}}
{{- fail "\n\nconfig.counters or config.cache asks for Redis: set redis.existingSecret (or redis.url).\n" -}}
{{- end -}}
{{- if and $v.tls.clientCA.existingSecret (not (include "keywarden.tls" .)) -}}
{{- fail "\n\ntls.clientCA needs a certificate of the listener: set tls.existingSecret, tls.hostSecrets or config.server.tls.acme.domains.\n" -}}
{{- end -}}
{{- if and (eq $v.tls.clientCA.mode "require") $v.tls.clientCA.existingSecret (not $v.operators.enabled) -}}
{{- fail "\n\ntls.clientCA.mode is require, and the kubelet has no certificate to show to the probes: set operators.enabled to true.\n" -}}
{{- end -}}
{{- if not $v.operators.enabled -}}
{{- $outside := or $v.ingress.enabled $v.httpRoute.enabled (ne $v.service.type "ClusterIP") -}}
{{- if and $outside (dig "telemetry" "metrics" true $v.config) -}}
{{- fail "\n\noperators.enabled is false, so /metrics is on the main listener, which asks nobody for a credential there, and that is reached from outside (ingress, httpRoute or service.type): set operators.enabled to true, or config.telemetry.metrics to false.\n" -}}
{{- end -}}
{{- if dig "server" "hosts" list $v.config -}}
{{- fail "\n\nconfig.server.hosts keeps the probes, which name no host, out of the main listener: set operators.enabled to true.\n" -}}
{{- else if and (include "keywarden.tls" .) (not (or $v.tls.existingSecret $v.tls.hostSecrets)) -}}
{{- fail "\n\nconfig.server.tls.acme gets a certificate for whom asks by name, which the probes do not: set operators.enabled to true, or tls.existingSecret.\n" -}}
{{- end -}}
{{- end -}}
{{- if eq $v.strategy "blueGreen" -}}
{{- if not (index $v.blueGreen $v.blueGreen.active).enabled -}}
{{- fail (printf "\n\nblueGreen.active is %s, but blueGreen.%s.enabled is false: the Service would lead nowhere.\n" $v.blueGreen.active $v.blueGreen.active) -}}
{{- end -}}
{{- end -}}
{{- if and $v.httpRoute.enabled (not $v.httpRoute.parentRefs) -}}
{{- fail "\n\nhttpRoute.enabled needs httpRoute.parentRefs, the Gateways to attach to.\n" -}}
{{- end -}}
{{- if and $v.ingress.enabled (not $v.ingress.hosts) -}}
{{- fail "\n\ningress.enabled needs ingress.hosts.\n" -}}
{{- end -}}
{{- if $v.autoscaling.enabled -}}
{{- if gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas) -}}
{{- fail "\n\nautoscaling.minReplicas is more than autoscaling.maxReplicas.\n" -}}
{{- end -}}
{{- if not (or $v.autoscaling.targetCPUUtilizationPercentage $v.autoscaling.targetMemoryUtilizationPercentage $v.autoscaling.metrics) -}}
{{- fail "\n\nautoscaling.enabled needs a target: targetCPUUtilizationPercentage, targetMemoryUtilizationPercentage or metrics.\n" -}}
{{- end -}}
{{- end -}}
{{- if and (not (kindIs "invalid" $v.podDisruptionBudget.minAvailable)) (not (kindIs "invalid" $v.podDisruptionBudget.maxUnavailable)) $v.podDisruptionBudget.enabled -}}
{{- fail "\n\npodDisruptionBudget.minAvailable and maxUnavailable are both set: set the other one to null.\n" -}}
{{- end -}}
{{- if and $v.monitoring.serviceMonitor.enabled (eq (toString (dig "telemetry" "metrics" true $v.config)) "false") -}}
{{- fail "\n\nmonitoring.serviceMonitor.enabled needs metrics, but config.telemetry.metrics is false.\n" -}}
{{- end -}}
{{- end }}

{{/* GOMEMLIMIT in bytes from a quantity of memory: (dict "limit" "512Mi" "percent" 90). */}}
{{- define "keywarden.memoryLimit" -}}
{{- $text := .limit -}}
{{- if kindIs "float64" $text }}{{ $text = int64 $text }}{{ end -}}
{{- $text = toString $text -}}
{{- $units := dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "" 1 -}}
{{- $number := regexFind "^[0-9]+(\\.[0-9]+)?" $text -}}
{{- $unit := trimPrefix $number $text -}}
{{- if or (not $number) (not (hasKey $units $unit)) -}}
{{- fail (printf "\n\nresources.limits.memory is %q: write it with Ki, Mi, Gi, Ti, k, M, G or T, or set goRuntime.memoryLimitPercent to 0.\n" $text) -}}
{{- end -}}
{{- int64 (floor (divf (mulf (float64 $number) (float64 (get $units $unit)) .percent) 100)) -}}
{{- end }}
