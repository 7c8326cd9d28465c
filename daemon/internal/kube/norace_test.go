//go:build !race

package kube

const defaultSequences = 10_000
