//go:build !race

package nodeeni

const defaultSequences = 10_000
