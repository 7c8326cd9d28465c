//go:build !race

package kube_test

const defaultNeighbours = 300
