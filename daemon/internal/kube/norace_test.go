//go:build !race

package kube

const defaultSequences = 10_000

const defaultNeighbours = 300
