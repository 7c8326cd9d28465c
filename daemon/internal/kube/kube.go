// Package kube has no code: its folders are the daemon's side of the Kubernetes API, and the only importers of client-go.
// client makes the requests of the others, and none of them imports another.
package kube
