//go:build tools

// Package kubeapi pins a real Kubernetes API server and its store; `make kube-apiserver` builds both. Nothing is built from this file.
package kubeapi

import (
	_ "go.etcd.io/etcd/server/v3"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
)
