{{/* The name in labels, and the name of every object. */}}
{{- define "aws-vpc-cni.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "aws-vpc-cni.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "aws-vpc-cni.labels" -}}
app.kubernetes.io/name: {{ include "aws-vpc-cni.name" . }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
k8s-app: aws-node
{{- if .Chart.AppVersion }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "aws-vpc-cni.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "aws-vpc-cni.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* An image's reference from its values and its name: (dict "image" ... "name" ...). */}}
{{- define "aws-vpc-cni.image" -}}
{{- $image := .image -}}
{{- if $image.override -}}
{{- $image.override -}}
{{- else if $image.overrideRepository -}}
{{- printf "%s:%s" $image.overrideRepository $image.tag -}}
{{- else -}}
{{- printf "%s.dkr.%s.%s.%s/%s:%s" (toString $image.account) $image.endpoint $image.region $image.domain .name $image.tag -}}
{{- end -}}
{{- end -}}

{{/* The operator's environment of aws-node: without an agent in the pod no ADD may wait for one. */}}
{{- define "aws-vpc-cni.env" -}}
{{- $agent := .Values.nodeAgent.enabled -}}
{{- range $name, $value := .Values.env }}
{{- if or $agent (ne $name "NETWORK_POLICY_ENFORCING_MODE") }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Who this pod is. The uid tells the settings of this pod from those that an earlier one left in the run folder. */}}
{{- define "aws-vpc-cni.identity" -}}
- name: MY_NODE_NAME
  valueFrom:
    fieldRef:
      apiVersion: v1
      fieldPath: spec.nodeName
- name: MY_POD_NAME
  valueFrom:
    fieldRef:
      apiVersion: v1
      fieldPath: metadata.name
- name: MY_POD_UID
  valueFrom:
    fieldRef:
      apiVersion: v1
      fieldPath: metadata.uid
{{- end -}}

{{/* A probe rendered whole, with its time-out behind it: (dict "probe" ... "timeout" ...). */}}
{{- define "aws-vpc-cni.probe" -}}
{{- toYaml (omit .probe "timeoutSeconds") }}
timeoutSeconds: {{ .timeout }}
{{- end -}}

{{/* The variable for a process's own log level, where one is set: (dict "root" $ "process" NAME). */}}
{{- define "aws-vpc-cni.logLevel" -}}
{{- with index .root.Values.logLevels .process }}
- name: LOG_LEVEL_{{ upper $.process }}
  value: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* A Go boolean's true words: the text "false" is none. */}}
{{- define "aws-vpc-cni.isTrue" -}}
{{- if has (toString .) (list "1" "t" "T" "TRUE" "true" "True") -}}true{{- end -}}
{{- end -}}

{{/* What an unprivileged process of the split shape is given: (dict "root" $ "name" ... "process" ... "values" ...). */}}
{{- define "aws-vpc-cni.component" -}}
{{- $root := .root -}}
{{- $image := merge (dict) .values.image $root.Values.image -}}
{{- if not .values.image.override }}{{ $_ := unset $image "override" }}{{ end -}}
{{- if not .values.image.overrideRepository }}{{ $_ := unset $image "overrideRepository" }}{{ end -}}
- name: {{ .name }}
  image: {{ include "aws-vpc-cni.image" (dict "image" $image "name" (printf "vpccni-%s" .name)) }}
  imagePullPolicy: {{ $image.pullPolicy }}
  livenessProbe:
    {{- include "aws-vpc-cni.probe" (dict "probe" $root.Values.livenessProbe "timeout" $root.Values.livenessProbeTimeoutSeconds) | nindent 4 }}
  env:
    {{- include "aws-vpc-cni.identity" $root | nindent 4 }}
    {{- with include "aws-vpc-cni.logLevel" (dict "root" $root "process" .process) | trim }}{{ . | nindent 4 }}{{ end }}
    {{- with .values.env }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with default $root.Values.resources .values.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- toYaml .values.securityContext | nindent 4 }}
  volumeMounts:
    - mountPath: /var/run/aws-node
      name: run-dir
    {{- if .token }}
    - mountPath: /var/run/secrets/kubernetes.io/serviceaccount
      name: api-access
      readOnly: true
    {{- end }}
{{- end -}}
