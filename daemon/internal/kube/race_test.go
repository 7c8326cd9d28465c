//go:build race

package kube_test

// The race detector makes a sequence ten times as long.
const defaultNeighbours = 50
